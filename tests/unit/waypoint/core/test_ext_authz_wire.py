"""What answers of a gRPC authorizer mean; the rows are what a real Envoy (1.40) did with them."""

from __future__ import annotations

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2

from waypoint.core.ext_authz_wire import decision
from waypoint.core.message import Headers
from waypoint.core.providers import Address, ExtAuthz

PROVIDER = ExtAuthz(name="p", at=Address("authz", 9000), grpc=True, status_on_error=403)
OPEN = ExtAuthz(name="p", at=Address("authz", 9000), grpc=True, fail_open=True)


def option(headers, append=None, action=None):
    for value in ("1", "2"):
        one = headers.add()
        one.header.key, one.header.value = "X-H", value
        if append is not None:
            one.append.value = append
        if action is not None:
            one.append_action = action


@pytest.mark.parametrize(
    ("append", "put", "add"),
    [
        (None, ("1", "2"), ()),  # each replaces the one before
        (False, ("1", "2"), ()),
        (True, (), ("1", "2")),  # only where the client sent the field
    ],
)
def test_fields_for_the_application(append, put, add):
    answer = external_auth_pb2.CheckResponse()
    option(answer.ok_response.headers, append)
    found = decision(PROVIDER, answer.SerializeToString())
    assert found.refusal is None
    assert found.put == tuple(("x-h", value) for value in put)
    assert found.add == tuple(("x-h", value) for value in add)


@pytest.mark.parametrize(
    ("append", "action", "there", "missing"),
    [
        (None, None, ["app", "1", "2"], ["1", "2"]),
        (True, None, ["app", "1", "2"], ["1", "2"]),
        (False, None, ["2"], ["2"]),
        (None, "ADD_IF_ABSENT", ["app"], ["1"]),
        (None, "OVERWRITE_IF_EXISTS_OR_ADD", ["2"], ["2"]),
        (None, "OVERWRITE_IF_EXISTS", ["2"], []),
    ],
)
def test_fields_for_the_client(append, action, there, missing):
    answer = external_auth_pb2.CheckResponse()
    number = None if action is None else base_pb2.HeaderValueOption.HeaderAppendAction.Value(action)
    option(answer.ok_response.response_headers_to_add, append, number)
    (edits,) = decision(PROVIDER, answer.SerializeToString()).response
    for before, after in (([("x-h", "app")], there), ([], missing)):
        headers = Headers(before)
        edits.apply(headers)
        assert [value for name, value in headers if name == "x-h"] == after


@pytest.mark.parametrize(
    ("status", "answered"), [(401, 401), (0, 403), (99, 403), (600, 403), (200, 200)]
)
def test_a_refusal(status, answered):
    answer = external_auth_pb2.CheckResponse()
    answer.status.code = 7
    answer.denied_response.body = "no"
    if status:
        answer.denied_response.status.code = status
    option(answer.denied_response.headers)
    refused = decision(PROVIDER, answer.SerializeToString()).refusal
    assert (refused.status, refused.body, refused.flag) == (answered, "no", "UAEX")
    assert refused.headers == (("x-h", "1"), ("x-h", "2"))
    assert refused.details == "ext_authz_denied"


@pytest.mark.parametrize(("status", "answered"), [(500, 500), (0, 403)])
def test_an_authorizer_that_says_that_it_cannot_decide(status, answered):
    answer = external_auth_pb2.CheckResponse()
    answer.status.code = 13
    answer.error_response.body = "oops"
    if status:
        answer.error_response.status.code = status
    option(answer.error_response.headers)
    raw = answer.SerializeToString()
    refused = decision(PROVIDER, raw).refusal
    assert (refused.status, refused.body, refused.flag) == (answered, "oops", "UAEX")
    assert refused.headers == (("x-h", "1"), ("x-h", "2"))
    assert refused.details == "ext_authz_error"
    assert decision(OPEN, raw).refusal is None  # which is no refusal


@pytest.mark.parametrize(("provider", "passes"), [(PROVIDER, False), (OPEN, True)])
def test_what_is_no_answer(provider, passes):
    assert (decision(provider, b"\xff").refusal is None) is passes
