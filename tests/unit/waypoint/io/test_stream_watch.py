"""Clients and endpoints that take too long, where an EnvoyFilter says how long that is."""

from __future__ import annotations

import pytest
import trio

from tests.unit.waypoint.core.test_stream_limits import manager
from tests.unit.waypoint.io.http2_peers import http2_caller
from tests.unit.waypoint.io.rig import http_app, rig
from tests.unit.waypoint.io.test_attempts import silent
from tests.unit.waypoint.io.test_rate_limits import rates
from waypoint.core.message import End
from waypoint.core.stream_limits import REQUEST_TIMEOUT, StreamLimits
from waypoint.io.downstream import Body
from waypoint.io.fiber import Limit
from waypoint.io.stream_watch import StreamWatch

BOTH = ("127.0.1.1", "127.0.1.2")
HALF = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab"
WHOLE = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
IDLE = {"stream_idle_timeout": "0.3s"}
REQUEST = {"request_timeout": "0.3s"}
DURATION = {"common_http_protocol_options": {"max_stream_duration": "0.3s"}}


async def read(stream) -> bytes:
    text = b""
    while b"\r\n\r\n" not in text or not text.endswith((b"timeout", b"}")):
        data = await stream.receive_some()
        if not data:
            break
        text += data
    return text


@pytest.mark.parametrize(
    ("limits", "wire", "status", "body", "flag", "details"),
    [
        (IDLE, HALF, 408, b"stream timeout", "SI", "stream_idle_timeout"),
        (IDLE, WHOLE, 504, b"stream timeout", "SI", "stream_idle_timeout"),
        (REQUEST, HALF, 408, b"request timeout", "-", "request_overall_timeout"),
        (DURATION, HALF, 408, b"downstream duration timeout", "-", "max_duration_timeout"),
        (DURATION, WHOLE, 504, b"downstream duration timeout", "-", "max_duration_timeout"),
    ],
)
async def test_who_takes_too_long_is_told(limits, wire, status, body, flag, details):
    async with rig(apps=False) as mesh:
        mesh.configure(rates(manager(**limits)))
        for ip in BOTH:
            await mesh.app(ip, silent)
        records = []
        mesh.service.reports.finished = records.append
        stream = await mesh.open()
        await stream.send_all(wire)
        text = await read(stream)
        assert text.startswith(b"HTTP/1.1 %d " % status)
        assert text.endswith(body)
        assert (b"connection: close" in text) == (wire == HALF)
        assert (records[0].flag, records[0].details) == (flag, details)
        assert mesh.upstreams.active == 0  # the endpoint is not kept busy


HEADS = {"request_headers_timeout": "0.3s"}
RESTS = {"common_http_protocol_options": {"idle_timeout": "0.3s"}}


@pytest.mark.parametrize("before", [b"", WHOLE])
async def test_a_head_that_comes_byte_by_byte(before):
    async with rig() as mesh:
        mesh.configure(rates(manager(**HEADS)))
        stream = await mesh.open()
        if before:
            await stream.send_all(before)
            assert (await read(stream)).startswith(b"HTTP/1.1 200 ")
        records = []
        mesh.service.reports.finished = records.append
        await stream.send_all(b"GET / HT")
        text = await read(stream)
        assert text.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in text
        assert text.endswith(b"request header timeout")
        assert records[0].details == "request_header_timeout"


async def test_a_connection_without_requests_ends():
    async with rig() as mesh:
        mesh.configure(rates(manager(**RESTS)))
        stream = await mesh.open()
        await stream.send_all(WHOLE)
        assert (await read(stream)).startswith(b"HTTP/1.1 200 ")
        assert await stream.receive_some() == b""


class Source:
    """Gives what was put there."""

    def __init__(self, *events):
        self._events = list(events)

    def poll_body(self):
        return self._events.pop(0)

    async def wait_body(self):
        raise AssertionError("everything is there")


async def test_what_moves_is_not_idle(mock_clock):
    body = Body(Source(b"ab", b"c", End()), present=True)
    with Limit() as limit:
        watch = StreamWatch(limit, StreamLimits(idle_s=2.0, request_s=5.0, whole_s=60.0), body)
        for _ in range(2):
            mock_clock.jump(1.9)
            assert watch.overdue() is None
            body.poll()
        mock_clock.jump(1.3)
        assert watch.overdue() is REQUEST_TIMEOUT
        body.poll()
        for _ in range(9):
            mock_clock.jump(1.9)
            assert watch.overdue() is None
            watch.beat()
        mock_clock.jump(2.1)
        assert watch.overdue().status == 504
        watch.stop()
        mock_clock.jump(30.0)
        assert watch.overdue() is None
        mock_clock.jump(30.0)
        assert watch.overdue().details == "max_duration_timeout"


async def test_a_response_that_stops_in_the_middle_is_cut_short_and_logged():
    async def half(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
        await trio.sleep_forever()

    async with rig(apps=False) as mesh:
        mesh.configure(rates(manager(**IDLE)))
        for ip in BOTH:
            await mesh.app(ip, half)
        records = []
        mesh.service.reports.finished = records.append
        while not any(one.status == 200 for one in records):  # in time for the head
            stream = await mesh.open()
            await stream.send_all(WHOLE)
            cut = False
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                cut = True
        assert cut
        assert records[-1].flag == "SI"


async def test_one_stream_of_http2_is_idle_and_the_others_go_on():
    async with rig(apps=False) as mesh:
        mesh.configure(rates(manager(**IDLE)))
        good = http_app("v1")

        async def app(stream):
            await (silent if mesh.calls.total() == 1 else good)(stream)

        for ip in BOTH:
            await mesh.app(ip, app)
        caller = await http2_caller(mesh)
        first = await caller.send()
        while not mesh.calls.total():
            await trio.sleep(0.01)
        while (await caller.get("/")).status != 200:  # it has little time
            pass
        late = await caller.answer(first)
        assert (late.status, late.body) == (504, b"stream timeout")
        while (await caller.get("/")).status != 200:
            pass
