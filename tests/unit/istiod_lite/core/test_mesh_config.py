"""The mesh's own configuration: visibility of ServiceEntries, and which namespaces are in it."""

import pytest

from ambient.kube.core.objects import ObjectError
from istiod_lite.core import mesh_config as made
from istiod_lite.core.index import Index
from istiod_lite.core.mesh_config import EntryVisibility, MeshConfig
from tests.unit.istiod_lite.objects import (
    mesh_config,
    namespace,
    pod,
    policy,
    service,
    service_entry,
)

TEAM = "{namespaceSelector: {matchLabels: {team: a}}}"

HIDDEN_TEAM = (
    f"serviceEntryVisibility: {{policies: [{{visibility: NONE, matchingRules: [{TEAM}]}}]}}"
)


@pytest.mark.parametrize(
    ("text", "labels", "want"),
    [
        ("{}", {}, EntryVisibility.PUBLIC),
        ("serviceEntryVisibility: {defaultVisibility: NAMESPACE}", {}, EntryVisibility.NAMESPACE),
        ("serviceEntryVisibility: {defaultVisibility: NONE}", {}, EntryVisibility.NONE),
        (
            HIDDEN_TEAM,
            {"team": "a"},
            EntryVisibility.NONE,
        ),
        (
            HIDDEN_TEAM,
            {"team": "b"},
            EntryVisibility.PUBLIC,
        ),
        (  # the first that matches counts
            "serviceEntryVisibility: {policies: ["
            f"{{visibility: NAMESPACE, matchingRules: [{TEAM}]}},"
            "{visibility: NONE, matchingRules: [{namespaceSelector: {}}]}]}",
            {"team": "a"},
            EntryVisibility.NAMESPACE,
        ),
        (  # an empty selector is everybody
            "serviceEntryVisibility: {policies: "
            "[{visibility: NONE, matchingRules: [{namespaceSelector: {}}]}]}",
            {},
            EntryVisibility.NONE,
        ),
    ],
)
def test_visibility(text, labels, want):
    assert made.read(mesh_config(text)).visibility(labels) is want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("serviceEntryVisibility: {defaultVisibility: SOME}", "defaultVisibility"),
        ("discoverySelectors: x", "discoverySelectors"),
        ("{", "key mesh"),
    ],
)
def test_what_cannot_be_read_is_named(text, words):
    with pytest.raises(ObjectError, match=words):
        made.read(mesh_config(text))


def test_without_a_config_map_everything_is_discovered_and_public():
    config = MeshConfig()
    assert config.discovers({"any": "thing"})
    assert config.visibility(None) is EntryVisibility.PUBLIC


SELECTORS = "discoverySelectors: [{matchLabels: {mesh: 'yes'}}]"
IN, OUT = "Kubernetes//Pod/in/web", "Kubernetes//Pod/out/web"


def two_namespaces():
    index = Index()
    index.load(
        {
            "Namespace": [namespace("in", mesh="yes"), namespace("out"), namespace("istio-system")],
            "Pod": [pod("web", home, f"10.0.0.{n}") for n, home in enumerate(("in", "out"))],
            "Service": [
                service("web", home, f"10.96.0.{n}") for n, home in enumerate(("in", "out"))
            ],
            "AuthorizationPolicy": [policy("p", "out", {"rules": [{}]})],
        }
    )
    return index


def test_discovery_selectors_hide_namespaces_and_labels_bring_them_back():
    index = two_namespaces()
    changes = index.apply("MeshConfig", mesh_config(SELECTORS))
    assert changes.addresses == {OUT, "out/web.out.svc.cluster.local"}
    assert changes.authorizations == {"out/p"}
    assert set(index.workloads) == {IN}
    changes = index.apply("Namespace", namespace("out", mesh="yes"))
    assert changes.addresses == {OUT, "out/web.out.svc.cluster.local"}
    index.apply("Namespace", namespace("in"))
    assert set(index.workloads) == {OUT}
    index.remove("MeshConfig", "istio-system", "istio")
    assert set(index.workloads) == {IN, OUT}


def test_objects_that_come_while_hidden_are_there_afterwards():
    index = two_namespaces()
    index.apply("MeshConfig", mesh_config(SELECTORS))
    assert index.apply("Pod", pod("late", "out", "10.0.0.9")).addresses == frozenset()
    index.remove("Pod", "out", "web")
    changes = index.apply("Namespace", namespace("out", mesh="yes"))
    assert "Kubernetes//Pod/out/late" in changes.addresses
    assert OUT not in index.workloads


def test_visibility_decides_who_sees_an_entry_and_who_is_canonical():
    index = two_namespaces()
    for home, created in (("in", "2025-01-01"), ("out", "2026-01-01")):
        index.apply("ServiceEntry", service_entry("e", home, "a.example.com", created=created))
    mine, theirs = "in/a.example.com", "out/a.example.com"
    assert (index.services[mine].canonical, index.services[theirs].canonical) == (True, False)
    private = (
        "serviceEntryVisibility: {policies: [{visibility: NAMESPACE, matchingRules: "
        "[{namespaceSelector: {matchLabels: {mesh: 'yes'}}}]}]}"
    )
    assert index.apply("MeshConfig", mesh_config(private)).addresses == {mine, theirs}
    assert index.services[mine].visibility.name == "NAMESPACE"
    assert (index.services[mine].canonical, index.services[theirs].canonical) == (False, True)
    hidden = "serviceEntryVisibility: {defaultVisibility: NONE}"
    assert index.apply("MeshConfig", mesh_config(hidden)).addresses == {mine, theirs}
    assert not {mine, theirs} & set(index.services)


GLOBAL_A = "{scope: GLOBAL, servicesSelector: {matchLabels: {app: a}}}"
GLOBAL_TEAM = "{scope: GLOBAL, namespaceSelector: {matchLabels: {team: a}}}"


@pytest.mark.parametrize(
    ("scopes", "of_namespace", "of_service", "want"),
    [
        # What nobody configures is Istio's ambient profile.
        (None, {}, {}, False),
        (None, {}, {"istio.io/global": "true"}, True),
        (None, {}, {"istio.io/global": "false"}, False),
        (None, {"istio.io/global": "true"}, {}, False),
        # Nothing is global that no entry makes so.
        ("[]", {}, {"istio.io/global": "true"}, False),
        ("[{scope: LOCAL}]", {}, {}, False),
        ("[{scope: GLOBAL}]", {}, {}, True),
        (f"[{GLOBAL_A}]", {}, {"app": "a"}, True),
        (f"[{GLOBAL_A}]", {}, {"app": "b"}, False),
        (f"[{GLOBAL_A}]", {}, None, False),
        (f"[{GLOBAL_TEAM}]", {"team": "a"}, {}, True),
        (f"[{GLOBAL_TEAM}]", {"team": "b"}, {}, False),
        (f"[{GLOBAL_TEAM}]", None, {}, False),
        # An entry has to match both; a LOCAL one takes nothing back; one of several is enough.
        ("[{scope: GLOBAL, namespaceSelector: {matchLabels: {team: a}}, "
         "servicesSelector: {matchLabels: {app: a}}}]", {"team": "a"}, {"app": "b"}, False),
        (f"[{GLOBAL_A}, {{scope: LOCAL}}]", {}, {"app": "a"}, True),
        (f"[{{scope: LOCAL}}, {GLOBAL_A}]", {}, {"app": "a"}, True),
        (f"[{GLOBAL_A}, {GLOBAL_TEAM}]", {"team": "a"}, {"app": "b"}, True),
    ],
)  # fmt: skip
def test_how_far_a_service_is_known(scopes, of_namespace, of_service, want):
    text = "{}" if scopes is None else f"serviceScopeConfigs: {scopes}"
    assert made.read(mesh_config(text)).is_global(of_namespace, of_service) is want
