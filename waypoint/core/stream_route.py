"""Routes of connections that are not HTTP: ``tls`` and ``tcp`` of a VirtualService."""

from __future__ import annotations

from typing import Final

import msgspec

from waypoint.core.http_match import MESH
from waypoint.core.http_rule import RuleReader
from waypoint.core.local_reply import BACKEND_INVALID
from waypoint.core.objects import Json, UnusableError, integer, mapping, sequence, strings
from waypoint.core.place import host_matches
from waypoint.core.routes import DirectResponse, Forward, Route

TLS: Final = 0
TCP: Final = 1


class StreamRoute(msgspec.Struct, frozen=True, kw_only=True):
    """Where connections go. ``forward`` None closes them. ``kind``: TLS routes come first."""

    kind: int
    source: str
    forward: Forward | None
    port: int | None = None
    sni_hosts: tuple[str, ...] = ()
    of: str = ""
    """Only clients of this namespace."""

    @property
    def route(self) -> Route:
        """As a route of the table."""
        action = self.forward or DirectResponse(BACKEND_INVALID)
        return Route(name="", source=self.source, predicates=(), action=action)

    def applies(self, hostname: str, port: int, sni: str, client: str) -> bool:
        """Does it take a connection for a service port; ``sni`` is empty where it is not known,
        ``client`` is a namespace?

        A rule that names nothing but the service itself holds whatever the client says (Istio).
        """
        if self.port not in (None, port) or self.of not in ("", client):
            return False
        if not self.sni_hosts or self.sni_hosts == (hostname,):
            return True
        return bool(sni) and any(host_matches(host, sni.lower()) for host in self.sni_hosts)

    def needs_sni(self, hostname: str, port: int) -> bool:
        """Does the answer depend on what the client says?"""
        asks = bool(self.sni_hosts) and self.sni_hosts != (hostname,)
        return asks and self.port in (None, port)


def compile_stream_routes(spec: Json, reader: RuleReader, source: str) -> tuple[StreamRoute, ...]:
    """The ``tls`` and ``tcp`` rules of a VirtualService; what cannot be used is a problem of
    ``reader``."""
    found: list[StreamRoute] = []
    for kind, name in ((TLS, "tls"), (TCP, "tcp")):
        for index, item in enumerate(sequence(spec.get(name), f"spec.{name}")):
            field = f"spec.{name}[{index}]"
            rule = mapping(item, field)
            try:
                forward: Forward | None = reader.forward(rule.get("route"), f"{field}.route")
            except UnusableError as bad:
                reader.problem(bad, "the rule closes connections")
                forward = None
            matches = sequence(rule.get("match"), f"{field}.match")
            for number, raw in enumerate(matches or ({},)):
                where = f"{field}.match[{number}]"
                match = mapping(raw, where)
                if MESH not in (strings(match.get("gateways"), f"{where}.gateways") or (MESH,)):
                    continue
                hosts = strings(match.get("sniHosts"), f"{where}.sniHosts")
                found.append(
                    StreamRoute(
                        kind=kind,
                        source=f"{source} {name}[{index}]"
                        + (f" match[{number}]" if matches else ""),
                        forward=forward,
                        port=integer(match.get("port"), f"{where}.port") or None,
                        sni_hosts=tuple(host.lower() for host in hosts),
                    )
                )
    return tuple(found)
