"""Endpoints that lie, stall, break off and flood, in HTTP/1.1 and HTTP/2: what clients get, what is
logged, and that the next request on the connection is safe.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress

import hpack
import pytest
import trio
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
)

from ambient.api.service import AppProtocol
from ambient.hbone.core.frames import HEAD, HEAD_BYTES, PREFACE
from tests.unit.waypoint.io.http2_peers import http2_app
from tests.unit.waypoint.io.rig import http_app, rig
from tests.unit.waypoint.io.test_http2_server import declare
from tests.unit.waypoint.sample import virtual_service
from waypoint.io.duplex import abort

TO_REVIEWS = {"route": [{"destination": {"host": "reviews"}}]}
ONCE = virtual_service({"retries": {"attempts": 0}, **TO_REVIEWS})
CUT = None
"""The client sees that its response is not whole."""
EITHER = 502, CUT
"""What breaks the rules came with the head, or behind it."""


async def answered(stream) -> bytes | None:
    """The response on a client's connection as bytes, to its end or as far as it is whole; None
    where it was cut short."""
    text = b""
    try:
        while True:
            head, gap, body = text.partition(b"\r\n\r\n")
            if gap and head.startswith(b"HTTP/1.1 1"):
                text = body
                continue
            if gap and _whole(head.lower(), body):
                return text
            data = await stream.receive_some()
            if not data:
                return text
            text += data
    except trio.BrokenResourceError:
        return None


def _whole(head: bytes, body: bytes) -> bool:
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    bodiless = head.split()[1] in (b"204", b"304")
    return bodiless or (bool(length) and len(body) >= int(length))


async def outcome(mesh, method=b"GET", more=b""):
    """Status and flag of a request to /bad, and its body; the next one on the connection has to be
    right, or the connection has to be over."""
    records = []
    finished = mesh.service.reports.finished
    mesh.service.reports.finished = lambda record: (records.append(record), finished(record))
    stream = await mesh.open()
    await stream.send_all(b"%b /bad HTTP/1.1\r\nhost: x\r\n%b\r\n" % (method, more))
    text = await answered(stream)
    if text is not None and b"connection: close" not in text:
        following = None
        with suppress(trio.BrokenResourceError):
            await stream.send_all(b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n")
            following = await answered(stream)
        if following is not None:
            assert following.startswith(b"HTTP/1.1 200 "), following
            assert b"/next" in following
    abort(stream)
    again = await mesh.caller()
    assert (await again.get("/next")).status == 200
    (record,) = [one for one in records if one.path == "/bad"]
    if text is None:
        return CUT, record.flag, b""
    head, _, body = text.partition(b"\r\n\r\n")
    return int(head.split()[1]), record.flag, body


class Lies:
    """What the application says to the next request of /bad; then it ends the connection, or
    stays."""

    wire = b""
    stays = False


def lying(lies):
    """An HTTP/1.1 application."""
    good = http_app("v1")

    async def app(stream):
        first = await stream.receive_some()
        if b" /bad " not in first.partition(b"\r\n")[0]:
            await good(Again(stream, first))
            return
        await stream.send_all(lies.wire)
        if lies.stays:
            await trio.sleep_forever()

    return app


class Again:
    """A stream whose beginning was read."""

    def __init__(self, stream, first):
        self._stream = stream
        self._first = first

    async def receive_some(self):
        first, self._first = self._first, b""
        return first or await self._stream.receive_some()

    async def send_all(self, data):
        await self._stream.send_all(data)


OK = b"HTTP/1.1 200 OK\r\n"
LONG = b"x" * 70_000
BROKEN = b"upstream connect error or disconnect/reset before headers. "
PROTOCOL = BROKEN + b"reset reason: protocol error"
TERMINATED = BROKEN + b"reset reason: connection termination"


@asynccontextmanager
async def mesh_of(application):
    """A mesh whose endpoints lie as they are told."""
    lies = Lies()
    async with rig(apps=False) as mesh:
        mesh.configure(ONCE)
        for ip in ("127.0.1.1", "127.0.1.2"):
            await mesh.app(ip, application(lies))
        yield mesh, lies


HTTP1 = [
        # it breaks off
        (b"", 503, "UC", TERMINATED),
        (OK, 503, "UC", TERMINATED),
        (OK + b"content-length: 5\r\n\r\nabc", CUT, "UC", b""),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nabc", CUT, "UC", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 503, "UC", TERMINATED),
        # no HTTP
        (b"garbage\r\n\r\n", 502, "UPE", PROTOCOL),
        (b"\0\1\2" * 50 + b"\r\n\r\n", 502, "UPE", PROTOCOL),
        (b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", 502, "UPE", PROTOCOL),
        (b"HTTP/1.1 99 Low\r\ncontent-length: 0\r\n\r\n", 502, "UPE", PROTOCOL),
        (b"HTTP/1.1 999 High\r\ncontent-length: 0\r\n\r\n", 502, "UPE", PROTOCOL),
        (OK + b"bad name: x\r\ncontent-length: 0\r\n\r\n", 502, "UPE", PROTOCOL),
        (OK + b"x: a\0b\r\ncontent-length: 0\r\n\r\n", 502, "UPE", PROTOCOL),
        # lengths
        (OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 502, "UPE", PROTOCOL),
        (OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", 502, "UPE", PROTOCOL),
        (OK + b"content-length: -1\r\n\r\n", 502, "UPE", PROTOCOL),
        (OK + b"content-length: 1x\r\n\r\na", 502, "UPE", PROTOCOL),
        (OK + b"content-length: 99999999999999999999\r\n\r\na", 502, "UPE", PROTOCOL),
        (OK + b"transfer-encoding: gzip\r\n\r\na", 502, "UPE", PROTOCOL),
        (OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n", EITHER, "UPE", b""),
        (OK + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n", EITHER, "UPE", b""),
        # more than there may be
        (OK + b"content-length: 2\r\n\r\nab" + OK + b"content-length: 1\r\n\r\nc", 200, "-",
         b"ab"),
        (b"HTTP/1.1 204 No Content\r\n\r\n" + OK + b"content-length: 1\r\n\r\nc", 204, "-", b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\nabc", 304, "-", b""),
        (OK + b"x: " + LONG + b"\r\n\r\n", 502, "UPE", PROTOCOL),
        (OK + b"x: " + LONG * 10, 502, "UPE", PROTOCOL),  # a head without an end
        (OK + b"a: b\r\n" * 101 + b"content-length: 0\r\n\r\n", 502, "UPE", PROTOCOL),
        (OK + b"transfer-encoding: chunked\r\n\r\n0\r\nx: " + LONG * 10, EITHER, "UPE", b""),
        (OK + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 101 + b"\r\n", EITHER,
         "UPE", b""),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 101, 502, "UPE", PROTOCOL),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 502, "UPE",
         PROTOCOL),
]  # fmt: skip


async def outcomes(application, cases, prepare):
    """What is not as expected, by what was said."""
    wrong = {}
    async with mesh_of(application) as (mesh, lies):
        prepare(mesh)
        for number, (wire, status, flag, body) in enumerate(cases):
            mesh.upstreams.close()
            lies.wire = wire
            found = await outcome(mesh)
            expected = status if isinstance(status, tuple) else (status,)
            good = found[0] in expected and found[1] == flag
            if not (good and found[2].startswith(body)):
                wrong[number] = found, wire[:60]
    return list(wrong.items())


async def test_http1():
    assert await outcomes(lying, HTTP1, lambda mesh: None) == []


async def test_a_head_that_never_comes_is_a_timeout():
    impatient = virtual_service({"retries": {"attempts": 0}, "timeout": "0.3s", **TO_REVIEWS})
    async with mesh_of(lying) as (mesh, lies):
        mesh.configure(impatient)
        lies.wire, lies.stays = OK + b"x: y\r\n", True
        records = []
        mesh.service.reports.finished = records.append
        answer = await (await mesh.caller()).get("/bad")
        assert (answer.status, answer.body) == (504, b"upstream request timeout")
        assert records[0].flag == "UT"


@pytest.mark.parametrize("stays", [True, False])
async def test_an_early_answer_is_the_clients(stays):
    async with mesh_of(lying) as (mesh, lies):
        lies.wire = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno"
        lies.stays = stays
        stream = await mesh.open()
        head = b"POST /bad HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"
        await stream.send_all(head)
        assert (await answered(stream)).endswith(b"no")
        await stream.send_all(b"abcdeGET /next HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b'"/next"' in await answered(stream)


# HTTP/2


def fields(stream_id, status="200", *more, end=False, raw=None, whole=True):
    head = HeadersFrame(stream_id, raw or hpack.Encoder().encode([(":status", status), *more]))
    if whole:
        head.flags.add("END_HEADERS")
    if end:
        head.flags.add("END_STREAM")
    return head.serialize()


def content(data=b"x", *, end=False):
    frame = DataFrame(1, data)
    if end:
        frame.flags.add("END_STREAM")
    return frame.serialize()


def lying2(lies):
    """An HTTP/2 application; only the first connection of each lie is bad."""
    good = http2_app("v1")

    async def app(stream):
        wire, lies.wire = lies.wire, None
        if wire is None:
            await good(stream)
            return
        await stream.send_all(SettingsFrame(0).serialize())
        data = b""
        while _requests(data) < 1:
            data += await stream.receive_some()
        await stream.send_all(wire)
        while lies.stays and _requests(data) < 2:  # the next one is better off elsewhere
            more = await stream.receive_some()
            if not more:
                return
            data += more

    return app


def _requests(data: bytes) -> int:
    """How many HEADERS frames there are."""
    at, found = len(PREFACE), 0
    while at + HEAD_BYTES <= len(data):
        high, low, kind, _, _ = HEAD.unpack_from(data, at)
        found += kind == 1
        at += HEAD_BYTES + (high << 8 | low)
    return found


PUSH = PushPromiseFrame(1, 2, hpack.Encoder().encode([(":method", "GET")]), flags=["END_HEADERS"])
REMOTE = BROKEN + b"reset reason: remote reset"
RESET = RstStreamFrame(1, error_code=2).serialize()


HTTP2 = [
        # it breaks off
        (RESET, 503, "UR", REMOTE),
        (RstStreamFrame(1, error_code=7).serialize(), 503, "UR",
         BROKEN + b"reset reason: remote refused stream reset"),
        (fields(1) + content() + RESET, CUT, "UR", b""),
        (GoAwayFrame(0, last_stream_id=0).serialize(), 503, "UR", b""),
        # no HTTP/2
        (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", 502, "UPE", PROTOCOL),
        (content(), 502, "UPE", PROTOCOL),
        (fields(1, raw=b"\xff\xff\xff\xff\xff\xff"), 502, "UPE", PROTOCOL),
        (PUSH.serialize(), 502, "UPE", PROTOCOL),
        (b"\xff\xff\xff\0\0\0\0\0\1", 502, "UPE", PROTOCOL),
        # no response
        (fields(1, "99"), 502, "UPE", PROTOCOL),
        (fields(1, "101"), 502, "UPE", PROTOCOL),
        (fields(1, "200", ("X-Upper", "x")), 502, "UPE", PROTOCOL),
        (fields(1, "200", ("connection", "close")), 502, "UPE", PROTOCOL),
        (fields(1, "200", ("transfer-encoding", "chunked")), 502, "UPE", PROTOCOL),
        (fields(1, "200", ("x", "a\nb")), 502, "UPE", PROTOCOL),
        (fields(1, "200", ("content-length", "3"), end=True), 502, "UPE", PROTOCOL),
        (fields(1, "103") + fields(1, "103", end=True), 502, "UPE", PROTOCOL),
        # lengths
        (fields(1, "200", ("content-length", "1")) + content(b"ab"), CUT, "UPE", b""),
        (fields(1, "200", ("content-length", "3")) + content(b"ab", end=True), CUT, "UPE", b""),
        (fields(1, "204") + content(b"ab"), 204, "UPE", b""),
        (fields(1, "204") + content(b"", end=True), 204, "-", b""),
        (fields(1, "304") + content(b"", end=True), 304, "-", b""),
        (fields(1) + content() + fields(1, "200"), CUT, "UPE", b""),  # trailers that go on
        # more than there may be
        (fields(1, "200", ("x", "y" * 62_000)), 502, "UPE", PROTOCOL),
        (fields(1, "200", *[("x", "")] * 101), 502, "UPE", PROTOCOL),
        (fields(1, "103") * 101, 502, "UPE", PROTOCOL),
        (fields(1, whole=False) + ContinuationFrame(1, b"").serialize() * 20, 502, "UPE", PROTOCOL),
        (PingFrame(0, bytes(8)).serialize() * 200, 502, "UPE", PROTOCOL),
        (SettingsFrame(0).serialize() * 50, 502, "UPE", PROTOCOL),
]  # fmt: skip
ENDING = [(b"", 503, "UC", TERMINATED), (fields(1) + content(), CUT, "UC", b"")]


@pytest.mark.parametrize(("cases", "stays"), [(HTTP2, True), (ENDING, False)])
async def test_http2(cases, stays):
    def application(lies):
        lies.stays = stays
        return lying2(lies)

    wrong = await outcomes(application, cases, lambda mesh: declare(mesh, AppProtocol.HTTP2))
    assert wrong == []
