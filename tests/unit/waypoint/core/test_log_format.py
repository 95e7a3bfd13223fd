"""Envoy's format operators, filled in from a record."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.api.address import HostPort
from tests.unit.waypoint.sample import CURL, service, workload
from waypoint.core.cel_expression import compile_expression, filter_of, text_of
from waypoint.core.dispatch import Destination, Protocol
from waypoint.core.host import Target
from waypoint.core.log_format import (
    DEFAULT_LABELS,
    DEFAULT_TEXT,
    label_format,
    text_format,
)
from waypoint.core.message import Headers, Peer
from waypoint.core.objects import UnusableError
from waypoint.core.record import Record

TO = Destination(address=HostPort("10.96.0.10", 9080), protocol=Protocol.HTTP1, service=service())


def record(**changes):
    given_ = {
        "peer": Peer(CURL, ip_address("10.0.9.9"), 4711),
        "to": TO,
        "method": "GET",
        "path": "/a?b=c",
        "authority": "reviews",
        "protocol": "HTTP/1.1",
        "request_id": "id-1",
        "user_agent": "curl/8",
        "status": 200,
        "details": "via_upstream",
        "sent": 12,
        "duration_ms": 4.6,
        "begun_s": 1767323045.6789,
        "request_headers": Headers([("user-agent", "curl/8"), ("x-team", "blue")]),
        "response_headers": Headers([("x-envoy-upstream-service-time", "3")]),
        "target": Target(workload("reviews-v1", "10.0.0.1", "v1"), HostPort("10.0.0.1", 9080)),
    }
    return Record(**(given_ | changes))


def test_istios_default_line():
    assert text_format(DEFAULT_TEXT, "f")(record()) == (
        '[2026-01-02T03:04:05.678Z] "GET /a?b=c HTTP/1.1" 200 - via_upstream - "-" 0 12 5 3 "-" '
        '"curl/8" "id-1" "reviews" "envoy://connect_originate/10.0.0.1:9080" - '
        "envoy://internal_client_address/ 10.96.0.10:9080 10.0.9.9:4711 - -\n"
    )


def test_a_connection_that_is_not_http():
    raw = record(method="", path="", authority="", protocol="", request_headers=None,
                 response_headers=None, status=0, user_agent="", request_id="")  # fmt: skip
    assert text_format(DEFAULT_TEXT, "f")(raw).startswith(
        '[2026-01-02T03:04:05.678Z] "- - -" 0 - via_upstream - "-" 0 12 5 - "-" "-" "-" "-" '
    )


def test_istios_default_labels():
    found = label_format(DEFAULT_LABELS, "f")(record())
    assert (found["response_code"], found["duration"]) == (200, 5)
    assert found["upstream_service_time"] == "3"
    assert found["x_forwarded_for"] is None
    assert "x_forwarded_for" not in label_format(DEFAULT_LABELS, "f", omit_empty=True)(record())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("%REQ(X-TEAM)%", "blue"),
        ("%REQ(X-NONE?X-TEAM)%", "blue"),
        ("%REQ(X-TEAM):2%", "bl"),
        ("%REQ(:AUTHORITY)% %REQ(:METHOD)%", "reviews GET"),
        ("%RESP(X-NONE)%", "-"),
        ("100%%", "100%"),
        ("%START_TIME(%Y/%m/%d %H:%M:%S.%3f)%", "2026/01/02 03:04:05.678"),
        ("%START_TIME(%s)%", "1767323045"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.9.9"),
        ("%DOWNSTREAM_LOCAL_PORT%", "9080"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/shop/sa/curl"),
        ("%RESPONSE_FLAGS_LONG%", "-"),
        ("%GRPC_STATUS%", "-"),
        ("%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/a"),
        ("%PATH(NQ:PATH)% %PATH(WQ)%", "/a /a?b=c"),
        ("%QUERY_PARAM(b)% %QUERY_PARAM(x)%", "c -"),
        ("%STREAM_ID% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "id-1 2"),
        ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "3 2"),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%:%UPSTREAM_REMOTE_PORT%", "10.0.0.1:9080"),
        ("%DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_DIRECT_REMOTE_PORT%", "4711 4711"),
        ("%ENVIRONMENT(NOT_THERE)%", "-"),
        ("%METADATA(DYNAMIC:a:b)% %DYNAMIC_METADATA(a:b)%", "1 1"),
        ("%METADATA(CLUSTER:a:b)% %VIRTUAL_CLUSTER_NAME% %FILTER_STATE(x:PLAIN)%", "- - -"),
        ("%UPSTREAM_TLS_VERSION% %SPAN_ID%", "- -"),
    ],
)
def test_operators(text, value):
    made = record(attempts=2, upstream_ms=3, metadata={"a": {"b": 1}})
    assert text_format(text, "f")(made) == value


def test_grpc_and_flags():
    failed = record(grpc_status="14", flag="UF,URX")
    text = "%GRPC_STATUS% %GRPC_STATUS_NUMBER% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%"
    assert text_format(text, "f")(failed) == (
        "Unavailable 14 UF,URX UpstreamConnectionFailure,UpstreamRetryLimitExceeded"
    )


@pytest.mark.parametrize("text", ["%COFFEE%", "100%", "%REQ(X%", "a" * 70000])
def test_formats_that_nobody_understands(text):
    with pytest.raises(UnusableError):
        text_format(text, "f")


def test_nested_labels_keep_their_shape():
    labels = {"a": {"code": "%RESPONSE_CODE%", "text": "c=%RESPONSE_CODE%"}, "l": ["%DURATION%"]}
    assert label_format(labels, "f")(record()) == {"a": {"code": 200, "text": "c=200"}, "l": [5]}


@given(st.text(alphabet="%ABREQSP():?1a _", max_size=40))
def test_any_format_is_read_or_refused(text):
    try:
        write = text_format(text, "f")
    except UnusableError:
        return
    write(record())


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ("response.code >= 400", False),
        ("response.code < 400 && request.method == 'GET'", True),
        ("request.headers['x-team'] == 'blue'", True),
        ("request.headers['x-none'] == 'blue'", False),  # cannot be computed
        ("has(request.headers['x']) || true", False),
        ("connection.mtls", True),
        ("request.url_path.startsWith('/a')", True),
        ("request.path", False),  # no truth value
        ("xds.cluster_metadata.service == 'reviews.shop.svc.cluster.local'", True),
    ],
)
def test_filters(expression, passes):
    try:
        found = filter_of(expression, "f")
    except UnusableError:
        assert "has(" in expression
        return
    assert found(record()) is passes


@pytest.mark.parametrize(
    ("expression", "text"),
    [("'test'", "test"), ("response.code", "200"), ("1 == 1", "true"), ("request.nope", "unknown"),
     ("request.host + '!'", "reviews!")],
)  # fmt: skip
def test_values_of_tags(expression, text):
    assert text_of(expression, "f")(record()) == text


@pytest.mark.parametrize("expression", ["", "1 +", "(", "x" * 5000])
def test_expressions_that_are_none(expression):
    with pytest.raises(UnusableError):
        compile_expression(expression, "f")
