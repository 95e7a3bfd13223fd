"""Any bytes as an HPACK block, and what it decodes to as the head of a CONNECT."""

from __future__ import annotations

import hpack

from ambient.api.address import parse_authority
from ambient.hbone.core.connect import (
    ConnectRequest,
    MalformedHeadError,
    check_trailers,
    parse_request,
    parse_response,
)
from ambient.hbone.core.errors import PeerError
from ambient.hbone.core.proxy_status import MAX_CHARS, denied, details
from tests.unit.ambient.hbone.core.wire import handshaken_server
from ztunnel.core.headers import forwarded_host, forwarded_network, read_baggage, trace_id


def _block(*fields):
    return hpack.Encoder().encode(list(fields))


_CONNECT = ((":method", "CONNECT"), (":authority", "[fd00::1]:8080"))
SEEDS = [
    _block(*_CONNECT),
    _block(
        *_CONNECT,
        ("baggage", "k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web"),
        ("forwarded", 'for="10.0.0.1:1";host=api.shop'),
        ("traceparent", f"00-{'a' * 32}-{'b' * 16}-00"),
    ),
    _block((":status", "401"), denied('denied by "shop/no-web"')),
    b"\x3f\xe1\xff\x03" + _block(*_CONNECT),
    b"\x40\x7f\xff\xff\xff\xff\xff\x0f",
]


def run(data):
    """Raises AssertionError, or whatever else should not happen."""
    try:
        fields = handshaken_server().tunnel.decode(data)
    except PeerError:
        return
    for read in (parse_request, parse_response, check_trailers):
        try:
            found = read(fields)
        except MalformedHeadError:
            continue
        if found is None:
            continue
        assert not any(c in value for _, value in found.headers for c in "\r\n\0")
        read_baggage(found.headers)
        forwarded_host(found.headers)
        forwarded_network(found.headers)
        assert len(trace_id(found.headers)) in (0, 32)
        told = details(found.headers)
        assert len(told) <= MAX_CHARS
        assert not told or told.isprintable()
        if isinstance(found, ConnectRequest):
            _authority(found.authority)


def _authority(text):
    try:
        parsed = parse_authority(text)
    except ValueError:
        return
    assert 0 < parsed.port <= 65535
    assert parse_authority(str(parsed)) == parsed
