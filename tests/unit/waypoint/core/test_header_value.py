"""Operators in values of headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.waypoint.core.test_virtual_service import TO_V1, go
from tests.unit.waypoint.sample import request, subsets, virtual_service
from waypoint.core.header_value import Template, compile_value
from waypoint.core.objects import UnusableError


def rendered(text, asked):
    found = compile_value(text, "f")
    return found.render(asked) if isinstance(found, Template) else found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("100%%", "100%"),
        ("%REQ(X-User)%", "anna"),
        ("a-%REQ(x-user)%-b%%", "a-anna-b%"),
        ("%REQ(x-none?x-user)%", "anna"),
        ("%REQ(x-none)%", ""),
        ("%REQ(x-user):2%", "an"),
        ("%REQ(:method)% %REQ(:path)% %REQ(:authority)%", "GET /a?b reviews:9080"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.9.9"),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", "10.96.0.10:9080"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/shop/sa/curl"),
    ],
)
def test_values(text, value):
    assert rendered(text, request(target="/a?b", headers={"x-user": "anna"})) == value


@pytest.mark.parametrize(
    "text", ["50%", "%NOBODY%", "%REQ(x-user%", "%REQ%", "%DOWNSTREAM_LOCAL_PORT(x)%"]
)
def test_what_is_no_operator(text):
    with pytest.raises(UnusableError):
        compile_value(text, "f")


@given(st.text(alphabet="%REQ()x:1?A_", max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        found = compile_value(text, "f")
    except UnusableError:
        return
    assert isinstance(rendered(text, request()), str)
    assert isinstance(found, str | Template)


def test_requests_and_responses_get_them():
    edits = {
        "request": {
            "set": {"x-client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "host": "%REQ(x-to)%"}
        },
        "response": {"add": {"x-for": "%REQ(x-user)%"}},
    }
    asked = request(headers={"x-user": "anna", "x-to": "there"})
    decided, asked = go([subsets(), virtual_service({"headers": edits, **TO_V1})], asked)
    assert (asked.headers.first("x-client"), asked.authority) == ("10.0.9.9", "there")
    from waypoint.core.message import Headers, Response

    response = Response(200, Headers())
    decided.edit(response)
    assert response.headers.items == [("x-for", "anna")]
