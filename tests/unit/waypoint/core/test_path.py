"""Policy sees the path that the application will see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.path import Normalization, normalise_target


@pytest.mark.parametrize(
    ("target", "normal"),
    [
        ("/", "/"),
        ("/a/b?x=/../y", "/a/b?x=/../y"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/a/%2e%2e/admin", "/admin"),
        ("/%61dmin", "/admin"),
        ("/a%2fb", "/a%2fb"),
        ('/a"<>^`{|}b', "/a%22%3C%3E%5E%60%7B%7C%7Db"),
        ("/a\\b", "/a/b"),
        ("/a//b", "/a//b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a.html", "/a.html"),
        ("/x?y#z", "/x?y"),
        ("/x#y?z", "/x"),
        ("/..", "/"),
        ("/a/../../b", "/b"),
        ("/%", None),
        ("/%zz", None),
        ("/%00", None),
        ("*", None),
        ("a", None),
        ("", None),
        ("?x", None),
    ],
)
def test_normalise(target, normal):
    assert normalise_target(target) == normal


@given(st.text(alphabet="/.%2eEfF5cC\\a", max_size=24))
def test_normal_is_normal(tail):
    once = normalise_target("/" + tail)
    if once is not None:
        assert normalise_target(once) == once
        assert not {".", ".."} & set(once.split("/"))
        assert "\\" not in once


@pytest.mark.parametrize(
    ("how", "target", "normal"),
    [
        ("NONE", "/a//../%2f?x", "/a//../%2f?x"),
        ("NONE", "a", None),
        ("BASE", "/a//b%2fc", "/a//b%2fc"),
        ("MERGE_SLASHES", "/a//b///c%2f", "/a/b/c%2f"),
        ("DECODE_AND_MERGE_SLASHES", "/a%2f%2Fb%5cc", "/a/b/c"),
        ("DECODE_AND_MERGE_SLASHES", "/a%2f..%2fb", "/b"),
        ("DECODE_AND_MERGE_SLASHES", "/..%2fb", "/b"),
    ],
)
def test_what_the_mesh_may_ask_for(how, target, normal):
    assert normalise_target(target, Normalization(how)) == normal
