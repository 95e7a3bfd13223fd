"""HTTP clients: nothing stays open when a call is given up."""

import ssl

import httpx
import trio

from ambient.telemetry.io.http_client import transport


async def test_a_cancelled_handshake_closes_its_connection():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, trio.open_nursery() as nursery:

        async def ask():
            tls = ssl.create_default_context()
            async with httpx.AsyncClient(transport=transport(tls)) as http:
                await http.get(f"https://127.0.0.1:{port}/")

        nursery.start_soon(ask)
        async with await listener.accept() as server:
            hello = await server.receive_some()
            assert hello.startswith(b"\x16\x03"), "a handshake has begun"
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(30):
                assert await server.receive_some() == b""


async def test_plain_text_and_proxies_of_the_environment(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def serve(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        async with httpx.AsyncClient(transport=transport(False)) as http:
            assert (await http.get(f"http://127.0.0.1:{port}/")).text == "ok"
        nursery.cancel_scope.cancel()
