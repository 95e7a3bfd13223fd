"""The small HTTP server: real bytes in, real bytes out, and every limit."""

from contextlib import suppress

import pytest
import trio
import trio.testing

from ambient.telemetry.io.http import (
    MAX_BODY_BYTES,
    Request,
    Response,
    Routes,
    _Connection,
    listen,
    serve_http,
)


async def echo(request: Request) -> Response:
    return Response(200, f"{request.method} {request.query.get('a', '')} {len(request.body)}")


async def fail(request: Request) -> Response:
    raise KeyError("bug")


@pytest.fixture
async def port(nursery):
    routes = Routes()
    routes.add("/echo", echo, methods=())
    routes.add("/get", echo)
    routes.add("/fail", fail)
    listeners = await listen("127.0.0.1", 0)
    await nursery.start(serve_http, listeners, routes)
    return listeners[0].socket.getsockname()[1]


async def talk(port, data: bytes) -> bytes:
    """Everything that the server answers until it closes."""
    with trio.fail_after(30):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with suppress(trio.BrokenResourceError):  # it may refuse before we are done
                await stream.send_all(data)
            answer = b""
            with suppress(trio.BrokenResourceError):
                while more := await stream.receive_some(65536):
                    answer += more
            return answer


def get(path: str, *, method="GET", close=True, headers: str = "") -> bytes:
    end = "Connection: close\r\n" if close else ""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{end}\r\n".encode()


async def test_an_answer(port):
    answer = await talk(port, get("/echo?a=1%202&b"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"Content-Length: 9" in head
    assert body == b"GET 1 2 0"


async def test_several_requests_on_one_connection(port):
    answer = await talk(port, get("/get?a=x", close=False) * 2 + get("/get?a=y"))
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.endswith(b"GET y 0")


async def test_head_has_no_body(port):
    answer = await talk(port, get("/get", method="HEAD"))
    assert b"Content-Length" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/nothing"), b"404"),
        (get("/get", method="POST"), b"405"),
        (get("/fail"), b"500"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000, b"431"),
        (
            get("/echo", method="POST", headers=f"Content-Length: {MAX_BODY_BYTES + 1}\r\n")
            + b"x" * (MAX_BODY_BYTES + 1),
            b"413",
        ),
    ],
    ids=["path", "method", "bug", "nonsense", "head", "body"],
)
async def test_refusals(port, request_, status):
    answer = await talk(port, request_)
    assert answer.startswith(b"HTTP/1.1 " + status)


async def test_a_body_is_read_whole(port):
    answer = await talk(
        port, get("/echo", method="PUT", headers="Content-Length: 5\r\n") + b"hello"
    )
    assert answer.endswith(b"PUT  5")


async def test_a_client_that_wants_to_be_asked_first_is(port):
    headers = "Content-Length: 2\r\nExpect: 100-continue\r\n"
    with trio.fail_after(30):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(get("/echo", method="POST", headers=headers))
            assert b"100" in await stream.receive_some(1000)
            await stream.send_all(b"ok")
            assert b"POST  2" in await stream.receive_some(1000)


async def test_slow_heads_and_idle_connections_are_closed(nursery, autojump_clock):
    """In memory, so that minutes pass at once."""
    for first in (b"", b"GET / HT"):
        client, server = trio.testing.memory_stream_pair()
        nursery.start_soon(_Connection(server, echo).run)
        if first:
            await client.send_all(first)
        started = trio.current_time()
        assert await client.receive_some() == b""
        assert trio.current_time() - started == pytest.approx(2 if first else 60, abs=1)


async def test_a_body_that_never_comes_is_not_waited_for_forever(nursery, autojump_clock):
    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(_Connection(server, echo).run)
    await client.send_all(get("/", method="POST", headers="Content-Length: 5\r\n"))
    assert await client.receive_some() == b""
