"""Heads and bodies up to the configured limits pass, larger ones are refused as Envoy refuses."""

from __future__ import annotations

import h11
import pytest

from tests.unit.waypoint.io.http2_peers import GET, http2_caller
from tests.unit.waypoint.io.rig import read_request, rig
from tests.unit.waypoint.sample import virtual_service
from waypoint.core.message_limits import LIMITS, MessageLimits, set_limits

BOTH = ("127.0.1.1", "127.0.1.2")


@pytest.fixture
def limits():
    """Sets them as a program does at its start; afterwards the defaults hold."""
    yield lambda kb=60, count=100, buffer=1 << 20: set_limits(
        headers_kb=kb, headers_count=count, buffer_bytes=buffer
    )
    default = MessageLimits()
    LIMITS.head_bytes, LIMITS.fields = default.head_bytes, default.fields
    LIMITS.retry_bytes = default.retry_bytes


def fields(number):
    return {f"x_{index}": "y" for index in range(number)}


@pytest.mark.parametrize(
    ("kb", "count", "headers", "status"),
    [
        (60, 100, {"big": "x" * 50_000}, 200),
        (60, 100, {"big": "x" * 65_000}, 431),
        (96, 100, {"big": "x" * 80_000}, 200),
        (96, 100, {"big": "x" * 99_000}, 431),
        (1, 100, {"big": "x" * 1_100}, 431),
        (60, 100, fields(90), 200),  # the waypoint adds some, host is one
        (60, 100, fields(100), 431),
        (60, 200, fields(150), 200),
        (60, 10, fields(10), 431),
    ],
)
async def test_heads_in_http1(limits, kb, count, headers, status):
    limits(kb, count)
    async with rig(apps=False) as made:
        for ip in BOTH:
            await made.app(ip, answering(200))
        got = await (await made.caller()).get("/", **headers)
        assert got.status == status
        if status == 431:
            assert got.body == b"Request Header Fields Too Large"
            assert got.headers["connection"] == "close"


@pytest.mark.parametrize(("kb", "passes"), [(60, False), (96, True)])
async def test_heads_in_http2(limits, kb, passes):
    """A head that is too large costs its stream; the connection goes on."""
    limits(kb)
    async with rig(apps=False) as made:
        for ip in BOTH:
            await made.app(ip, answering(200))
        caller = await http2_caller(made)
        head = [*GET.items(), *((f"x-{index}", "y" * 8_000) for index in range(8))]
        answer = await caller.answer(await caller.send(head))
        assert (answer.reset is None) is passes
        if passes:
            assert answer.status == 200
        assert (await caller.get()).status == 200


def answering(status, seen=None, **headers):
    """Answers whatever it gets; takes heads of any size."""

    async def app(stream):
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        while True:
            request, body, _ = await read_request(http, stream)
            if request is None:
                return
            if seen is not None:
                seen.append(len(body))
            head = [("content-length", "0"), *headers.items()]
            wire = http.send(h11.Response(status_code=status, headers=head))
            await stream.send_all(wire + http.send(h11.EndOfMessage()))
            http.start_next_cycle()

    return app


@pytest.mark.parametrize(("kb", "status"), [(60, 502), (96, 200)])
async def test_heads_of_responses(limits, kb, status):
    limits(kb)
    async with rig(apps=False) as made:
        for ip in BOTH:
            await made.app(ip, answering(200, big="x" * 70_000))
        stream = await made.open()
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await stream.receive_some()).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(("buffer", "times"), [(1 << 20, 3), (1_000, 1)])
async def test_longer_bodies_than_the_buffer_are_not_sent_again(limits, buffer, times):
    limits(buffer=buffer)
    seen: list[int] = []
    async with rig(apps=False) as made:
        for ip in BOTH:
            await made.app(ip, answering(503, seen))
        route = {
            "route": [{"destination": {"host": "reviews"}}],
            "retries": {"attempts": 2, "retryOn": "5xx"},
        }
        made.configure(virtual_service(route))
        got = await (await made.caller()).get("/", "POST", body=b"x" * 200_000)
        assert got.status == 503
    assert seen == [200_000] * times


def test_the_defaults_are_envoys():
    assert (LIMITS.head_bytes, LIMITS.fields, LIMITS.retry_bytes) == (61_440, 100, 1_048_576)
