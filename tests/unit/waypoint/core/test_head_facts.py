"""The facts of a head say what looking for each field would."""

from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.grpc import is_grpc
from waypoint.core.head_facts import facts_of
from waypoint.core.message import Headers

NAMES = st.sampled_from(
    [
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
        "content-type",
        "x-forwarded-client-cert",
        "x-envoy-peer-metadata",
        "accept",
    ]
)
VALUES = st.sampled_from(["", "a", "b", "application/grpc", "application/grpc+proto", "text/html"])


@given(fields=st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_one_pass_finds_what_every_look_would(fields):
    headers, facts = Headers(fields), facts_of(fields)
    assert facts.user_agent == (headers.get("user-agent") or "")
    assert facts.forwarded_for == headers.get("x-forwarded-for")
    assert facts.request_id == headers.first("x-request-id")
    assert facts.proto_known == ("x-forwarded-proto" in headers)
    assert facts.grpc == is_grpc(headers)
    headers.remove("x-forwarded-client-cert", "x-envoy-peer-metadata")
    assert list(facts.passed) == headers.items
