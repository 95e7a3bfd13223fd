"""Kubeconfigs as kubectl reads them: merged files, contexts, users, and words for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.kube.core.kubeconfig import KubeconfigError, Section, choose, impersonation


def config(name="a", user=None, **more):
    return {
        "current-context": name,
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": name, "namespace": f"{name}-ns"}}
        ],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443"}}],
        "users": [{"name": name, "user": user or {"token": name}}],
        **more,
    }


A, B = (Path("/home/a/config"), config("a")), (Path("/home/b/config"), config("b"))


def test_of_several_files_the_first_that_says_something_is_right():
    assert choose([A, B], None).cluster.text("server") == "https://a:6443"
    found = choose([A, B], "b")
    assert (found.user.text("token"), found.namespace) == ("b", "b-ns")
    again = (Path("/c"), config("a", clusters=[{"name": "a", "cluster": {"server": "http://c"}}]))
    assert choose([A, again], None).cluster.text("server") == "https://a:6443"
    without = {key: value for key, value in config("a").items() if key != "current-context"}
    assert choose([(Path("/c"), without), B], None).namespace == "b-ns"


def test_relative_files_are_found_beside_the_kubeconfig():
    user = {"client-certificate": "pki/me.crt", "client-key": "/etc/me.key"}
    found = choose([(Path("/home/a/config"), config("a", user))], None).user
    assert found.path("client-certificate") == Path("/home/a/pki/me.crt")
    assert found.path("client-key") == Path("/etc/me.key")
    assert found.path("tokenFile") is None


@pytest.mark.parametrize(
    ("documents", "context", "said"),
    [
        ([], None, "no context is chosen"),
        ([A], "lost", "there is no context lost; there are a"),
        ([(Path("/c"), config(clusters=None))], None, "there is no cluster a"),
        ([(Path("/c"), config(users=[]))], None, "there is no user a"),
        ([(Path("/c"), config(clusters=[{"name": "a"}]))], None, "cluster a has no server"),
        ([(Path("/c"), config(contexts={"a": 1}))], None, "contexts is no list"),
        ([(Path("/c"), config(contexts=[1]))], None, "an entry of contexts is no mapping"),
        ([(Path("/c"), "text")], None, "a kubeconfig is no mapping"),
    ],
)
def test_what_is_wrong_is_named(documents, context, said):
    with pytest.raises(KubeconfigError, match=said):
        choose(documents, context)


def test_a_user_with_a_plugin_needs_somebody_else():
    assert choose([(Path("/c"), config(user={"exec": {"command": "aws"}}))], None).external
    assert not choose([A], None).external


def test_data_is_base64_and_nothing_of_it_is_shown():
    assert Section({"client-key-data": "c2VjcmV0"}, Path("/")).data("client-key") == b"secret"
    with pytest.raises(KubeconfigError) as caught:
        Section({"client-key-data": "s3cr3t!"}, Path("/")).data("client-key")
    assert "s3cr3t" not in str(caught.value)


def test_speaking_for_somebody_with_groups_and_extra():
    user = {"as": "me", "as-groups": ["a", "b"], "as-user-extra": {"Acme/Why": ["x", "y"]}}
    assert impersonation(Section(user, Path("/"))) == [
        ("Impersonate-User", "me"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-acme%2Fwhy", "x"),
        ("Impersonate-Extra-acme%2Fwhy", "y"),
    ]
    assert impersonation(Section({"token": "t"}, Path("/"))) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "context", "contexts", "cluster", "clusters", "user", "users",
                         "server", "current-context", "token"]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_any_document_is_read_or_refused(document):
    try:
        found = choose([(Path("/c"), document)], None)
        found.user.text("token")
        impersonation(found.user)
    except KubeconfigError:
        pass
