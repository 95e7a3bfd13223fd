"""``ambientctl analyze`` as people and pipelines run it."""

from __future__ import annotations

import json

import pytest

from tests.unit.ambientctl.conftest import run_command, serving

SHOP = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
"""
LOST = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: lost}
spec: {host: nobody}
"""
WRONG = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: wrong}
spec: {action: PERMIT}
"""


def offline(*words, stdin=""):
    return run_command(["analyze", "--no-use-kube", *words], stdin, {"KUBECONFIG": "/nowhere"})


def test_a_file_by_itself(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(SHOP + "---" + LOST)
    done = offline(str(path))
    assert done.status == 0  # a warning is below the threshold
    assert f"Warning [IST0174] (DestinationRule default/lost {path}:14) spec.host: no" in done.out
    assert "remedy: " in done.out
    assert offline("--failure-threshold", "Warning", str(path)).status == 79
    assert offline("--output-threshold", "Error", str(path)).out == ""


@pytest.mark.parametrize("form", ["json", "yaml", "log", "table"])
def test_pain_41_every_format_exits_with_79_where_there_are_errors(form):
    done = offline("-o", form, "-", stdin=WRONG)
    assert done.status == 79
    assert "IST0106" in done.out


def test_json_has_the_fields_that_istioctl_has():
    one, *_ = json.loads(offline("-o", "json", "-n", "shop", "-", stdin=WRONG).out)
    assert one["code"] == "IST0106"
    assert one["level"] == "Error"
    assert one["origin"] == "AuthorizationPolicy shop/wrong"
    assert one["reference"] == "-:5"
    assert one["field"] == "spec.action"


def test_nothing_found_is_said_on_standard_error():
    done = offline("-", stdin=SHOP)
    assert (done.status, done.out) == (0, "")
    assert "no problems found" in done.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is no YAML"),
        ("- 1", "it has no kind"),
        ("kind: Pod", "metadata.name is missing"),
        ("kind: Pod\nmetadata: {name: 3}", "metadata.name is missing"),
        ("a: !!python/object:x {}", "is no YAML"),
        ("\x07", "is no YAML"),
    ],
)
def test_a_file_that_holds_no_object_is_named_and_the_exit_status_is_65(text, said):
    done = offline("-", stdin=text)
    assert done.status == 65
    assert said in done.err
    assert offline("--ignore-unknown", "-", stdin=text).status == 0


def test_aliases_that_expand_without_end_are_refused():
    layers = [f"l{n}: &l{n} [{', '.join(['*l' + str(n - 1)] * 9)}]" for n in range(1, 9)]
    text = "kind: Pod\nmetadata: {name: bomb}\nl0: &l0 [a, b]\n" + "\n".join(layers)
    done = offline("-", stdin=text)
    assert done.status == 65
    assert "expands to more than" in done.err


def test_folders_and_lists(tmp_path):
    inner = tmp_path / "deep"
    inner.mkdir()
    (inner / "lost.yaml").write_text(LOST)
    items = json.dumps({"kind": "List", "items": [{"kind": "Pod", "metadata": {"name": "p"}}]})
    (tmp_path / "list.json").write_text(items)
    (tmp_path / "kustomization.yaml").write_text("kind: Kustomization\nresources: []")
    assert offline(str(tmp_path)).out == ""
    assert "IST0174" in offline("-R", str(tmp_path)).out
    done = offline(str(tmp_path / "nowhere"))
    assert done.status == 2
    assert "does not exist" in done.err


def test_suppression_and_analyzers_are_named():
    assert offline("-S", "IST0106=AuthorizationPolicy *", "-", stdin=WRONG).status == 0
    assert offline("-S", "", "-", stdin=WRONG).status == 2
    assert offline("--analyzer", "ports", "-", stdin=WRONG).status == 0
    done = offline("--analyzer", "prots", "-", stdin=WRONG)
    assert done.status == 2
    assert "no analyzer 'prots'" in done.err
    assert "network-policies: " in offline("--list-analyzers").out
    assert "AMB0401" in offline("--list-codes").out


def test_without_a_cluster_there_is_one_clear_line():
    done = run_command(["analyze"], "", {"KUBECONFIG": "/nowhere"})
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert offline().status == 2


def test_a_cluster_and_what_files_would_bring_to_it(ambientctl):
    ambientctl.apply(SHOP, LOST.replace("name: lost", "name: old, namespace: shop"))
    done = ambientctl("analyze", "-n", "shop")
    assert "DestinationRule shop/old" in done.out
    assert "AMB0001" not in done.out  # the definitions are there
    assert ambientctl("analyze", "-n", "default").out == ""
    assert "DestinationRule shop/old" in ambientctl("analyze", "-A").out

    service = SHOP.partition("---")[2].replace("name: reviews", "name: nobody")
    policy = WRONG.replace("PERMIT", "ALLOW").replace(
        "{action", "{selector: {matchLabels: {a: b}}, action"
    )
    path = ambientctl.file("new.yaml", policy + "---" + service)
    brought = ambientctl("analyze", "-n", "shop", path).out
    assert "IST0127" in brought
    assert "IST0174" not in brought  # was there before, and the new Service mends it


def test_a_cluster_without_gateway_api(tmp_path):
    with serving(tmp_path, crds=False) as bare:
        done = bare("analyze", "-A")
        assert done.status == 79
        assert "the cluster does not know gateways of gateway.networking.k8s.io" in done.out


def test_pain_42_fields_that_a_waypoint_cannot_use_are_named(ambientctl):
    text = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.9, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, workloadSelector: {matchLabels: {app: client}}}
"""
    (one,) = json.loads(offline("-o", "json", "-", stdin=text).out)
    assert one["code"] == "AMB0003"
    assert one["field"] == "spec.workloadSelector"
    assert one["remedy"] == "ambientctl explain DestinationRule says which fields work where"
