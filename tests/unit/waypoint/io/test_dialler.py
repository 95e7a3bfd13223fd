"""What endpoints see first: PROXY headers, CONNECT, TLS with ALPN."""

from __future__ import annotations

import ssl

import h11
import pytest
import trio
import trustme

from ambient.api.service import AppProtocol, Port
from ambient.api.workload import TunnelProtocol
from tests.unit.waypoint.io.http2_peers import http2_app
from tests.unit.waypoint.io.rig import http_app, rig
from tests.unit.waypoint.io.test_safeguards import register
from tests.unit.waypoint.sample import REVIEWS, config, service, workload
from waypoint.io.raw import CONNECT_ATTEMPTS

BOTH = ("127.0.1.1", "127.0.1.2")
CA = trustme.CA()


def rule(**policy):
    return config("DestinationRule", "reviews", {"host": "reviews", "trafficPolicy": policy})


def declare(made, protocol, **more):
    port = Port(9080, 9080, protocol)
    register(made, service(ports=(port,)))
    for number, ip in enumerate(BOTH, 1):
        name = f"reviews-v{number}"
        register(made, workload(name, ip, f"v{number}", services={REVIEWS: (port,)}, **more))


async def line_of(stream) -> bytes:
    line = b""
    while not line.endswith(b"\r\n") and (byte := await stream.receive_some(1)):
        line += byte
    return line


def behind_proxy_header(app, seen):
    """Reads a header of version 1, then serves."""

    async def serve(stream):
        seen.append(await line_of(stream))
        await app(stream)

    return serve


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


async def exchange(stream, data):
    await stream.send_all(data)
    back = b""
    while len(back) < len(data) and (more := await stream.receive_some()):
        back += more
    return back


async def test_proxy_protocol_names_the_client_of_a_raw_connection():
    seen: list[bytes] = []
    async with rig(apps=False) as made:
        declare(made, AppProtocol.TCP)
        for ip in BOTH:
            await made.app(ip, behind_proxy_header(echo, seen))
        made.configure(rule(proxyProtocol={"version": "V1"}))
        assert await exchange(await made.open(), b"hello") == b"hello"
    (line,) = seen
    kind, protocol, client, called, _, port = line.decode().split()
    assert (kind, protocol, client, called, port) == (
        "PROXY", "TCP4", "127.0.0.1", "10.96.0.10", "9080")  # fmt: skip


@pytest.mark.parametrize("hbone", [True, False])
async def test_with_proxy_protocol_requests_of_several_clients_share_no_connection(hbone):
    seen: list[bytes] = []
    async with rig(apps=False, hbone=hbone) as made:
        for ip in BOTH:
            await made.app(ip, behind_proxy_header(http_app("v1"), seen))
        made.configure(rule(proxyProtocol={}))
        callers = [await made.caller(), await made.caller()]
        assert [(await one.get()).status for one in (*callers, *callers)] == [200] * 4
    assert len(seen) == 4
    assert all(line.startswith(b"PROXY TCP4 127.0.0.1 10.96.0.10 ") for line in seen)


def connect_proxy(answer, seen):
    """A forward proxy whose other end echoes; ``answer`` is its first line."""

    async def serve(stream):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.receive_some(1)
        seen.append(head)
        # The server behind speaks first: its greeting comes in the same segment.
        await stream.send_all(answer + b"\r\nvia: test\r\n\r\ngreeting ")
        await echo(stream)

    return serve


@pytest.mark.parametrize("hbone", [True, False])
async def test_a_raw_connection_goes_through_a_forward_proxy(hbone):
    seen: list[bytes] = []
    async with rig(apps=False, hbone=hbone) as made:
        declare(
            made, AppProtocol.TCP, **({} if hbone else {"tunnel_protocol": TunnelProtocol.NONE})
        )
        for ip in BOTH:
            await made.app(ip, connect_proxy(b"HTTP/1.1 200 OK", seen))
        made.configure(rule(tunnel={"targetHost": "api.example.com", "targetPort": 443}))
        stream = await made.open()
        await stream.send_all(b"hello")
        text = b""
        while not text.endswith(b"hello"):
            text += await stream.receive_some()
        assert text == b"greeting hello"
    assert seen == [b"CONNECT api.example.com:443 HTTP/1.1\r\nhost: api.example.com:443\r\n\r\n"]


def post_proxy(answer):
    """A forward proxy that takes POST; its other end echoes and greets, and ends when we do."""

    async def serve(stream):
        http = h11.Connection(h11.SERVER)
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some())
                continue
            if isinstance(event, h11.Request):
                assert (event.method, dict(event.headers)[b"host"]) == (
                    b"POST",
                    b"api.example.com:443",
                )
                out = http.send(h11.Response(status_code=answer, headers=[("a", "b")]))
                out += http.send(h11.Data(data=b"greeting "))
            elif isinstance(event, h11.Data):
                out = http.send(h11.Data(data=bytes(event.data)))
            else:
                out = http.send(h11.EndOfMessage())
            await stream.send_all(out)
            if isinstance(event, h11.EndOfMessage):
                return

    return serve


@pytest.mark.parametrize("answer", [200, 403])
async def test_a_forward_proxy_that_takes_post(answer):
    async with rig(apps=False) as made:
        declare(made, AppProtocol.TCP)
        for ip in BOTH:
            await made.app(ip, post_proxy(answer))
        tunnel = {"targetHost": "api.example.com", "targetPort": 443, "protocol": "POST"}
        made.configure(rule(tunnel=tunnel))
        stream = await made.open()
        if answer != 200:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            return
        big = b"x" * (1 << 20)
        text = b""
        async with trio.open_nursery() as nursery:

            async def say():
                await stream.send_all(big)
                await stream.send_eof()

            nursery.start_soon(say)
            while data := await stream.receive_some():
                text += data
        assert text == b"greeting " + big


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 Forbidden", b"SSH-2.0-OpenSSH"])
async def test_a_proxy_that_refuses_ends_the_connection(answer):
    seen: list[bytes] = []
    async with rig(apps=False) as made:
        declare(made, AppProtocol.TCP)
        for ip in BOTH:
            await made.app(ip, connect_proxy(answer, seen))
        made.configure(rule(tunnel={"targetHost": "api.example.com", "targetPort": 443}))
        stream = await made.open()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
    assert len(seen) == CONNECT_ATTEMPTS


def tls_app(app, offered):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("reviews.shop.svc.cluster.local").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])

    async def serve(stream):
        secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await secured.do_handshake()
        offered.append(secured.selected_alpn_protocol())
        await app(secured)

    return serve


@pytest.mark.parametrize(
    ("protocol", "app", "alpn"),
    [
        (AppProtocol.HTTP2, http2_app("v1"), "h2"),
        (AppProtocol.GRPC, http2_app("v1"), "h2"),
        (AppProtocol.HTTP11, http_app("v1"), "http/1.1"),
    ],
)
async def test_alpn_says_what_will_be_spoken(tmp_path, protocol, app, alpn):
    offered: list[str | None] = []
    ca = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(ca)
    async with rig(apps=False) as made:
        declare(made, protocol)
        for ip in BOTH:
            await made.app(ip, tls_app(app, offered))
        made.configure(rule(tls={"mode": "SIMPLE", "caCertificates": str(ca)}))
        assert (await (await made.caller()).get()).status == 200
    assert offered == [alpn]


async def test_raw_bytes_offer_no_protocol(tmp_path):
    offered: list[str | None] = []
    ca = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(ca)
    async with rig(apps=False) as made:
        declare(made, AppProtocol.TCP)
        for ip in BOTH:
            await made.app(ip, tls_app(echo, offered))
        made.configure(rule(tls={"mode": "SIMPLE", "caCertificates": str(ca)}))
        assert await exchange(await made.open(), b"hello") == b"hello"
    assert offered == [None]
