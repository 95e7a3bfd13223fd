"""Paths into tokens."""

from __future__ import annotations

import pytest

from waypoint.core import claims
from waypoint.core.objects import UnusableError


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("@request.auth.claims.a", ("a",)),
        ("@request.auth.claims.a.b", ("a", "b")),
        ("@Request.Auth.Claims.A", ("A",)),
        ("@request.auth.claims[a][b.c]", ("a", "b.c")),
        ("@request.auth.claims[https://x/y]", ("https://x/y",)),
        ("x-claims", None),
    ],
)
def test_pseudo_headers_of_routes(name, path):
    assert claims.routing_path(name, "f") == path


@pytest.mark.parametrize(
    "name",
    ["@request.auth.claims", "@request.auth.claims.", "@request.auth.claims.a..b",
     "@request.auth.claims[", "@request.auth.claims[]", "@request.auth.claims[a]b"],
)  # fmt: skip
def test_pseudo_headers_that_name_nothing(name):
    with pytest.raises(UnusableError):
        claims.routing_path(name, "f")


def test_lists_with_blanks_are_lists():
    found = claims.normalised({"scope": "read write", "teams": "a b", "x": "a b"}, ("teams",))
    assert found == {"scope": ["read", "write"], "teams": ["a", "b"], "x": "a b"}
    assert claims.normalised({"scope": ["a b"]}) == {"scope": ["a b"]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), ("x", "x"), (True, "true"), (False, "false"), (7, "7"), (7.0, "7"),
        (7.5, "7.500000"), (-1, "-1.000000"), (["a"], "WyJhIl0="), ({"a": 1}, "eyJhIjoxfQ=="),
        ("caf\u00e9", "caf\u00c3\u00a9"),
        ("\u65e5", "\u00e6\u0097\u00a5"), (1e20, "1" + "0" * 20 + ".000000"),
    ],
)  # fmt: skip
def test_claims_as_headers(value, text):
    assert claims.header_text(value) == text
