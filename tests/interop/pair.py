"""The same requests to a real Envoy and to our waypoint, in front of the same applications: what
each answers, logs, and sends to the application."""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import h11
import trio

from tests.interop.envoy import Envoy
from tests.unit.waypoint.io.rig import rig
from waypoint.core.log_format import label_format

TYPES = "type.googleapis.com/envoy.extensions"
HOST = "reviews:9080"
PODS = ("127.0.1.1", "127.0.1.2")
NOBODY = 9
"""A port where nobody listens."""
LOGGED = {
    "case": "%REQ(X-CASE)%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
}
VOLATILE = frozenset(
    ("date", "x-request-id", "x-case", "x-forwarded-for", "x-envoy-internal", "connection")
)
"""Fields that differ each time, or by design: we tell applications the client's address, and keep
the connection of a client whose body we did not need (``docs/compatibility.md``)."""
_numbers = itertools.count()
LEFT = "x-envoy-expected-rq-timeout-ms"
LIMITS = {"max_retries": 4294967295, "max_requests": 4294967295, "max_pending_requests": 4294967295}
"""Istio's: none."""
TIME = "x-envoy-upstream-service-time"


def typed(kind: str, **spec: Any) -> dict[str, Any]:
    """A configuration with its type, below ``envoy.extensions``."""
    return {"@type": f"{TYPES}.{kind}", **spec}


def http_filter(name: str, kind: str, **spec: Any) -> dict[str, Any]:
    """An HTTP filter; ``name`` is the last part of its name."""
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": typed(f"filters.http.{kind}", **spec),
    }


class Proxy(Envoy):
    """An Envoy as Istio configures a waypoint's HTTP connection manager."""

    def __init__(self, folder, name: str, port: int) -> None:
        super().__init__(folder, None, name)
        self.port = port
        self.lines = folder / f"{name}-access.json"
        self._told = 0
        self._known: dict[str, dict[str, Any]] = {}

    def cluster(self, name: str, ips: Sequence[str] = PODS, port: int = 9080, **more: Any) -> None:
        """Endpoints of the same port; a connection takes one request."""
        once = typed(
            "upstreams.http.v3.HttpProtocolOptions",
            common_http_protocol_options={"max_requests_per_connection": 1},
            explicit_http_config={"http_protocol_options": {}},
        )
        options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": once}
        limits = {"thresholds": [LIMITS]}
        given = {"typed_extension_protocol_options": options, "circuit_breakers": limits}
        self._cluster(name, port, **given, **more)
        self.clusters[-1]["load_assignment"]["endpoints"] = [
            {
                "lb_endpoints": [
                    {
                        "endpoint": {
                            "address": {"socket_address": {"address": ip, "port_value": port}}
                        }
                    }
                    for ip in ips
                ]
            }
        ]

    def serve(
        self,
        routes: Sequence[Any],
        filters: Sequence[Any] = (),
        logged: Mapping[str, str] = LOGGED,
        **manager: Any,
    ) -> None:
        """The listener."""
        log = typed(
            "access_loggers.file.v3.FileAccessLog",
            path=str(self.lines),
            log_format={"json_format": {**LOGGED, **logged}, "formatters": FORMATTERS},
        )
        given = {
            "stat_prefix": "in",
            "server_name": "istio-envoy",
            "normalize_path": True,
            "stream_idle_timeout": "0s",
            "internal_address_config": {
                "cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]
            },
            "route_config": {
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}]
            },
            "http_filters": [*filters, http_filter("router", "router.v3.Router")],
            "access_log": [{"name": "envoy.access_loggers.file", "typed_config": log}],
            **manager,
        }
        kind = "filters.network.http_connection_manager.v3.HttpConnectionManager"
        self._listener(self.port, {"name": "hcm", "typed_config": typed(kind, **given)})

    async def logged(self, case: str) -> dict[str, Any]:
        """The log's line about a case; Envoy writes it a moment after the answer."""
        while case not in self._known:
            with suppress(FileNotFoundError), self.lines.open() as file:
                file.seek(self._told)
                for line in file:
                    if not line.endswith("\n"):
                        break
                    self._told += len(line.encode())
                    read = json.loads(line)
                    self._known[read["case"]] = read
            await trio.sleep(0.01)
        return self._known.pop(case)


class Case(NamedTuple):
    """A request, and what the application does with it: one action for each time that it sees it,
    the last of them for all further times."""

    target: str
    headers: Mapping[str, str] = {}
    answers: Sequence[Any] = ()
    method: str = "GET"
    body: bytes = b""
    host: str = HOST


class Answer(NamedTuple):
    """What came of a request. ``status`` 0: the connection ended without an answer."""

    status: int
    headers: dict[str, tuple[str, ...]]
    body: bytes
    log: dict[str, Any]
    asked: list[dict[str, Any]]
    """What the application saw: method, target, fields and body."""
    at: list[str]
    """Which applications saw it, in order."""


FORMATTERS = [
    {"name": f"envoy.formatter.{name}", "typed_config": typed(f"formatter.{name}.v3.{kind}")}
    for name, kind in (
        ("cel", "Cel"),
        ("metadata", "Metadata"),
        ("req_without_query", "ReqWithoutQuery"),
    )
]
"""Those that istiod asks for."""
PARTS = ("status", "headers", "body", "log", "asked")


class After(NamedTuple):
    """An application's answer that takes a while."""

    delay_s: float
    answer: bytes


def same(found: Mapping[str, tuple[Answer, Answer]], parts: Sequence[str] = PARTS) -> None:
    """Fails with the differing parts, Envoy's and ours."""
    apart = [
        f"{name}: {part}\n    Envoy: {theirs}\n    ours:  {own}"
        for name, (envoy, ours) in found.items()
        for part in parts
        if (theirs := getattr(envoy, part)) != (own := getattr(ours, part))
    ]
    assert not apart, "\n".join(apart)


CLOSE, RESET, SILENT = "close", "reset", "silent"


def ok(status: int = 200, body: str = "", **headers: str) -> bytes:
    """An application's answer."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", body]).encode()


class Sides:
    """Both proxies and the applications behind them."""

    def __init__(self, proxy: Proxy, made, logged: Mapping[str, str] = LOGGED) -> None:
        self.made = made
        self.proxy = proxy
        self._cases: dict[str, Case] = {}
        self._asked: dict[str, list[dict[str, Any]]] = {}
        self._at: dict[str, list[str]] = {}
        self._lines: dict[str, dict[str, Any]] = {}
        form = label_format({**LOGGED, **logged}, "test")
        finished = made.service.reports.finished

        def note(record) -> None:
            finished(record)
            line = form(record)
            self._lines[line["case"]] = line

        made.service.reports.finished = note

    async def envoy(self, name: str, case: Case) -> Answer:
        """Send a case to Envoy."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.proxy.port)
        return await self._ask(stream, f"envoy/{next(_numbers)}/{name}", case, self.proxy.logged)

    async def ours(self, name: str, case: Case) -> Answer:
        """Send a case to our waypoint."""
        key = f"ours/{next(_numbers)}/{name}"
        return await self._ask(await self.made.open(), key, case, self._own_line)

    async def both(self, cases: Mapping[str, Case]) -> dict[str, tuple[Answer, Answer]]:
        """Each case to both, all at the same time."""
        found: dict[str, dict[str, Answer]] = defaultdict(dict)

        async def ask(side: str, name: str, case: Case) -> None:
            found[name][side] = await getattr(self, side)(name, case)

        async with trio.open_nursery() as nursery:
            for name, case in cases.items():
                for side in ("envoy", "ours"):
                    nursery.start_soon(ask, side, name, case)
        return {name: (found[name]["envoy"], found[name]["ours"]) for name in cases}

    async def _own_line(self, key: str) -> dict[str, Any]:
        while key not in self._lines:
            await trio.sleep(0.01)
        return self._lines.pop(key)

    async def _ask(self, stream, key: str, case: Case, line) -> Answer:
        self._cases[key] = case
        self._asked[key], self._at[key] = [], []
        try:
            status, headers, body = await _exchange(stream, key, case)
            log = await line(key)  # before we go: that must not be what is logged
        finally:
            await stream.aclose()
        del log["case"]
        return Answer(status, headers, body, log, self._asked[key], self._at[key])

    async def start(self) -> None:
        """The applications."""
        for ip in PODS:
            await self.made.app(ip, self.app(ip))

    def app(self, ip: str):
        """An application that does what the case says."""

        async def serve(stream: trio.SocketStream) -> None:
            http = h11.Connection(h11.SERVER)
            while True:
                read = await _request(http, stream)
                if read is None:
                    return
                key = read.pop("case")
                if self._asked[key] and LEFT in read["headers"]:
                    read["headers"][LEFT] = ("less",)  # how much less is a matter of time
                self._asked[key].append(read)
                self._at[key].append(ip)
                answers = self._cases[key].answers or [ok()]
                action = answers[min(len(self._asked[key]), len(answers)) - 1]
                if not await _act(stream, action):
                    return
                http = h11.Connection(h11.SERVER)

        return serve


async def _act(stream: trio.SocketStream, action: Any) -> bool:
    """Do it; False where the connection ends with it."""
    if isinstance(action, After):
        await trio.sleep(action.delay_s)
        action = action.answer
    if action == SILENT:
        await stream.receive_some()
        return False
    if action == RESET:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if action in (CLOSE, RESET):
        return False
    await stream.send_all(action)
    return True


async def _request(http: h11.Connection, stream) -> dict[str, Any] | None:
    head, body = None, b""
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            return None
    assert head is not None
    return {
        "case": dict(head.headers)[b"x-case"].decode(),
        "method": head.method.decode(),
        "target": head.target.decode(),
        "headers": _fields(head.headers),
        "body": body,
    }


def _fields(pairs) -> dict[str, tuple[str, ...]]:
    """Values by name, without what differs each time."""
    found: dict[str, tuple[str, ...]] = {}
    for raw, value in pairs:
        name = raw.decode()
        if name not in VOLATILE:
            found[name] = (*found.get(name, ()), "" if name == TIME else value.decode("latin-1"))
    return found


async def _exchange(stream, key: str, case: Case):
    http = h11.Connection(h11.CLIENT)
    fields = [("host", case.host), ("x-case", key), *case.headers.items()]
    if case.body:
        fields.append(("content-length", str(len(case.body))))
    wire = http.send(h11.Request(method=case.method, target=case.target, headers=fields))
    if case.body:
        wire += http.send(h11.Data(data=case.body))
    await stream.send_all(wire + http.send(h11.EndOfMessage()))
    status, headers, body = 0, {}, b""
    with suppress(trio.BrokenResourceError, h11.RemoteProtocolError):  # cut short
        while not isinstance(event := http.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = _fields(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
    return status, headers, body


@asynccontextmanager
async def sides(proxy: Proxy, logged: Mapping[str, str] = LOGGED):
    """Both, with the applications; configure ours with ``made.configure``."""
    async with rig(hbone=False, apps=False) as made:
        found = Sides(proxy, made, logged)
        await found.start()
        yield found
