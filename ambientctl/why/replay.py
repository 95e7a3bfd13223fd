"""Connections that were seen, judged again by another configuration: which would break.

Pure: the same functions that tunnels and waypoints ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ambient.api.address import HostPort, NetworkAddress, parse_ip
from ambient.api.spiffe import Identity
from ambient.api.workload import Workload
from ambientctl.access_log import CONNECTION, FAILED, REQUEST, Access
from ambientctl.why.mesh import Mesh
from waypoint.core.dispatch import Self
from waypoint.core.explain import RequestFacts, explain
from waypoint.core.place import Place
from ztunnel.core import admit


class Seen(NamedTuple):
    """A connection at its destination's tunnel, or a request at a waypoint; ``times`` it came."""

    source: str
    """Identity as text; empty where nobody proved one."""
    ip: str
    authority: str
    """What was called: ``address:port``."""
    waypoint: tuple[str, str] | None = None
    """Namespace and Gateway of the waypoint that saw it."""
    method: str = ""
    path: str = ""
    host: str = ""
    times: int = 1

    def __str__(self) -> str:
        what = f"{self.method} {self.host}{self.path} at " if self.method else ""
        return f"{self.source or self.ip} -> {what}{self.authority}"


class Outcome(NamedTuple):
    """Of one judgement."""

    allowed: bool
    by: str
    reason: str


class Turned(NamedTuple):
    """A connection whose verdict differs."""

    seen: Seen
    target: str
    before: Outcome
    after: Outcome


def seen_in(access: Access, waypoint: tuple[str, str] | None = None) -> Seen | None:
    """What a log line or a live connection saw; None for what cannot be judged again."""
    text = access.text
    if access.event == REQUEST or text("downstream_local_address"):
        if waypoint is None or not text("downstream_local_address"):
            return None
        return Seen(
            source=text("downstream_identity"),
            ip=_ip(text("downstream_remote_address")),
            authority=text("downstream_local_address"),
            waypoint=waypoint,
            method=text("method"),
            path=text("path"),
            host=text("authority"),
        )
    if text("direction") != "inbound" or access.event not in (CONNECTION, FAILED):
        return None
    authority = text("dst.hbone_addr") or text("dst.addr")
    if not authority:
        return None
    return Seen(text("src.identity"), _ip(text("src.addr")), authority)


def _ip(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def gathered(found: Iterable[Seen]) -> list[Seen]:
    """Equal ones together, those that came most often first."""
    counts: dict[Seen, int] = {}
    for one in found:
        key = one._replace(times=1)
        counts[key] = counts.get(key, 0) + one.times
    return sorted(
        (one._replace(times=times) for one, times in counts.items()),
        key=lambda one: (-one.times, str(one)),
    )


def turned(before: Mesh, after: Mesh, found: Iterable[Seen]) -> Iterator[Turned]:
    """Those whose verdict is another one with ``after``."""
    for one in found:
        old, new = judge(before, one), judge(after, one)
        if old is not None and new is not None and old.allowed is not new.allowed:
            yield Turned(one, _target(after, one), old, new)


def judge(mesh: Mesh, seen: Seen) -> Outcome | None:
    """None for what the mesh does not know (any more)."""
    identity = None
    if seen.source:
        try:
            identity = Identity.parse(seen.source)
        except ValueError:
            return None
    ip = parse_ip(seen.ip)
    if ip is None:
        return None
    if seen.waypoint is not None:
        return _at_waypoint(mesh, seen, identity)
    workload = _workload(mesh, seen.authority)
    host, _, port = seen.authority.rpartition(":")
    if workload is None or not port.isdecimal():
        return None
    if identity is not None:
        caller = admit.Caller(identity=identity, ip=ip, authority=seen.authority)
        local = HostPort(str(workload.addresses[0]), 15008)
        decided = admit.admit_connect(mesh.state, workload, caller, local)
    else:
        at = HostPort(host.strip("[]"), int(port))
        decided = admit.admit_plaintext(mesh.state, workload, ip, at)
    verdict = decided.verdict
    by = mesh.around.author(workload, verdict.policy) if verdict is not None else ""
    reason = decided.reason if isinstance(decided, admit.Denial) else decided.verdict.reason
    return Outcome(isinstance(decided, admit.Permit), by, reason)


def _at_waypoint(mesh: Mesh, seen: Seen, identity: Identity | None) -> Outcome | None:
    assert seen.waypoint is not None
    ip = parse_ip(seen.ip)
    assert ip is not None
    place = Place(namespace=seen.waypoint[0], gateway=seen.waypoint[1])
    facts = RequestFacts(
        source=identity,
        source_ip=ip,
        authority=seen.authority,
        method=seen.method or "GET",
        target=seen.path or "/",
        host=seen.host,
    )
    told = explain(mesh.program(place), mesh.state, Self(place, frozenset()), facts)
    if told.verdict is None:
        return None
    by = f"AuthorizationPolicy {told.verdict.by.policy}" if told.verdict.by is not None else ""
    return Outcome(told.verdict.allowed, by, told.verdict.reason)


def _workload(mesh: Mesh, authority: str) -> Workload | None:
    ip = parse_ip(_ip(authority))
    return mesh.state.workload_by_address(NetworkAddress("", ip)) if ip is not None else None


def _target(mesh: Mesh, seen: Seen) -> str:
    ip = parse_ip(_ip(seen.authority))
    if ip is not None:
        service = mesh.state.service_by_address(NetworkAddress("", ip))
        if service is not None:
            return f"service {service.namespace}/{service.name}"
    workload = _workload(mesh, seen.authority)
    return f"{workload.namespace}/{workload.name}" if workload is not None else seen.authority
