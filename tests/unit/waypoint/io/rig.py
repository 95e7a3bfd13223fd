"""A waypoint between real tunnels, with client and applications, in one process.

Each pod is a loopback address with its own tunnel port. Applications speak HTTP through h11.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import h11
import trio

from ambient.api.address import HostPort
from ambient.api.config import ConfigObject
from ambient.api.spiffe import Identity
from ambient.api.workload import TunnelProtocol
from ambient.hbone.core.connect import ConnectRequest
from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import HboneError
from ambient.hbone.io.pool import Pool
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.server import serve
from ambient.hbone.io.stream import HboneStream
from tests.fakes.certs import TestCa
from tests.unit.waypoint.sample import CURL, OWN, mesh, workload
from waypoint.core.program import Program
from waypoint.core.record import Record
from waypoint.io.dialler import Dialler, connect, plain
from waypoint.io.listener import Listener, bind
from waypoint.io.service import Service
from waypoint.io.upstream import Upstreams

WAYPOINT_ID = Identity("cluster.local", "shop", "waypoint")
WAYPOINT_AT = HostPort("127.0.0.5", 15008)
REVIEWS_AT = "10.96.0.10:9080"
App = Callable[[trio.SocketStream], Awaitable[None]]


class Certificates:
    """A certificate store with what a test CA signed."""

    def __init__(self, ca: TestCa) -> None:
        self._issued = ca.issue(WAYPOINT_ID)

    async def client_context(self, identity):
        return self._issued.client_context()

    async def server_context(self, identity):
        return self._issued.server_context()


class Exchange:
    """A response as h11 read it."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, trailers) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.trailers = trailers

    @property
    def json(self):
        return json.loads(self.body)


class Caller:
    """An HTTP client on one tunnelled connection."""

    def __init__(self, stream: HboneStream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)

    async def send(self, method="GET", target="/", body=b"", **headers) -> None:
        fields = [("host", "reviews:9080"), *((k.replace("_", "-"), v) for k, v in headers.items())]
        if body and "transfer-encoding" not in dict(fields):
            fields.append(("content-length", str(len(body))))
        wire = self._h11.send(h11.Request(method=method, target=target, headers=fields))
        if body:
            wire += self._h11.send(h11.Data(data=body))
        await self.stream.send_all(wire + self._h11.send(h11.EndOfMessage()))

    async def event(self):
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(await self.stream.receive_some())
        return event

    async def receive(self) -> Exchange:
        head = await self.event()
        while isinstance(head, h11.InformationalResponse):
            head = await self.event()
        body = b""
        while not isinstance(event := await self.event(), h11.EndOfMessage):
            body += event.data
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        headers = {n.decode(): v.decode() for n, v in head.headers}
        return Exchange(head.status_code, headers, body, event.headers)

    async def get(self, target="/", method="GET", **more) -> Exchange:
        await self.send(method, target, **more)
        return await self.receive()


class Rig:
    """Pods at 127.0.1.<n>; ``calls`` counts the connections that each application took."""

    def __init__(self, nursery: trio.Nursery, relay: Relay, ca, at: HostPort = WAYPOINT_AT) -> None:
        self.nursery = nursery
        self.relay = relay
        self.ca = ca
        self.at = at
        self.calls: Counter[str] = Counter()
        self.tunnels: Counter[str] = Counter()
        self.peers: set[Identity] = set()
        self.records: list[Record] = []
        self._pool = Pool(relay)

    def waypoint(self, state) -> None:
        """Make a waypoint in this process."""
        self.state = state
        ca, relay = self.ca, self.relay
        certs = Certificates(ca)
        dialler = Dialler(Pool(relay), certs, WAYPOINT_ID, 5.0)
        self.credentials = dialler.credentials
        self.upstreams = Upstreams(dialler)
        self.service = Service(OWN, state, self.upstreams)
        self.listener = Listener(self.service, relay, certs, WAYPOINT_ID, 1.0)
        finished = self.service.reports.finished

        def note(record: Record) -> None:
            finished(record)
            self.records.append(record)

        self.service.reports.finished = note

    async def cause(self) -> str:
        """Why the last attempt of the next exchange in ``records`` failed."""
        while not self.records:
            await trio.sleep(0.01)
        return self.records.pop().cause

    def configure(self, *objects: ConfigObject) -> None:
        self.service.replace_program(Program(OWN.place).changed(objects))

    async def app(self, ip: str, handler: App, port: int = 9080) -> trio.CancelScope:
        """Start an application."""
        listeners = await trio.open_tcp_listeners(port, host=ip)
        scope = trio.CancelScope()

        async def counted(stream: trio.SocketStream) -> None:
            self.calls[ip] += 1
            with stream.socket:
                with suppress(trio.BrokenResourceError, h11.RemoteProtocolError):
                    await handler(stream)

        async def run(task_status=trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                await trio.serve_listeners(counted, listeners, task_status=task_status)

        await self.nursery.start(run)
        return scope

    async def ztunnel(self, ip: str, name: str = "reviews") -> trio.CancelScope:
        """Start a pod's tunnel end: it passes streams on to the application."""
        tls = self.ca.issue(Identity("cluster.local", "shop", name)).server_context()
        scope = trio.CancelScope()
        sock = bind(ip, 15008)

        async def handle(stream: HboneStream) -> None:
            self.tunnels[ip] += 1
            self.peers.add(stream.peer)
            host, _, port = stream.request.authority.rpartition(":")
            try:
                app = plain(await connect(HostPort(host, int(port))))
            except OSError:
                stream.refuse(503)
                return
            stream.accept()
            await stream.couple(app, Counters())

        async def tunnel(client: socket.socket) -> None:
            with suppress(HboneError):  # waypoints come and go
                await serve(self.relay, client, tls, handle)

        async def run() -> None:
            with scope, sock:
                async with trio.open_nursery() as tunnels:
                    while True:
                        client, _ = await sock.accept()
                        tunnels.start_soon(tunnel, plain(client))

        self.nursery.start_soon(run)
        return scope

    async def open(self, authority: str = REVIEWS_AT, source: Identity = CURL) -> HboneStream:
        """A tunnelled connection of a client."""

        async def dial() -> socket.socket:
            return plain(await connect(self.at))

        stream, _ = await self._pool.connect(
            source,
            ConnectRequest(authority),
            dial,
            self.ca.issue(source).client_context(),
            frozenset((WAYPOINT_ID,)),
        )
        return stream

    async def caller(self, authority: str = REVIEWS_AT, source: Identity = CURL) -> Caller:
        return Caller(await self.open(authority, source))


def http_app(version: str, seen: list | None = None) -> App:
    """Answers with what it received; ``seen`` collects the requests."""

    async def app(stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            request, body, trailers = await read_request(http, stream)
            if request is None:
                return
            said = {
                "version": version,
                "method": request.method.decode(),
                "target": request.target.decode(),
                "headers": {n.decode(): v.decode() for n, v in request.headers},
                "size": len(body),
                "trailers": {n.decode(): v.decode() for n, v in trailers},
            }
            if seen is not None:
                seen.append(said)
            content = json.dumps(said).encode()
            fields = [("content-length", str(len(content))), ("x-version", version)]
            wire = http.send(h11.Response(status_code=200, headers=fields))
            if request.method != b"HEAD":
                wire += http.send(h11.Data(data=content))
            await stream.send_all(wire + (http.send(h11.EndOfMessage()) or b""))
            if http.our_state is not h11.DONE:
                return
            http.start_next_cycle()

    return app


async def read_request(http: h11.Connection, stream: trio.SocketStream):
    request, body, trailers = None, b"", []
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(http.send(go_on))
            http.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return request, body, event.headers
        else:
            return None, body, trailers


@asynccontextmanager
async def rig(*, hbone: bool = True, apps: bool = True):
    """reviews-v1 at 127.0.1.1 and reviews-v2 at 127.0.1.2, and the waypoint in front of them."""
    protocol = TunnelProtocol.HBONE if hbone else TunnelProtocol.NONE
    state = mesh(
        workload("reviews-v1", "127.0.1.1", "v1", tunnel_protocol=protocol),
        workload("reviews-v2", "127.0.1.2", "v2", tunnel_protocol=protocol),
    )
    relay = Relay()
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        made = Rig(nursery, relay, TestCa())
        made.waypoint(state)
        nursery.start_soon(made.service.run)
        for ip, version in (("127.0.1.1", "v1"), ("127.0.1.2", "v2")):
            await made.ztunnel(ip)
            if apps:
                await made.app(ip, http_app(version))
        await nursery.start(made.listener.run, bind(*WAYPOINT_AT), nursery)
        with trio.fail_after(30):
            yield made
        nursery.cancel_scope.cancel()
