"""The decision about one request: what is answered, or where it goes."""

from __future__ import annotations

import msgspec

from ambient.api.service import AppProtocol, Service
from waypoint.core.authz import Verdict
from waypoint.core.codec import Codec, upstream_codec
from waypoint.core.filters import Filter
from waypoint.core.host import Key, Target
from waypoint.core.message import Reply, Response
from waypoint.core.routes import Backend, Route
from waypoint.core.session import Session, Visit
from waypoint.core.traffic_policy import DEFAULT_SETTINGS, ClusterSettings

DIRECT = "direct"
"""Name of the one route of a pod's own address."""


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """Where the request goes: the endpoints to choose from, and how.

    ``allowed`` are the endpoints that admit the client; None where all do.
    """

    backend: Backend
    service: Service | None
    port: int
    targets: tuple[Target, ...]
    settings: ClusterSettings = DEFAULT_SETTINGS
    allowed: frozenset[Key] | None = None
    declared: AppProtocol = AppProtocol.UNKNOWN
    """What the service says that the port speaks."""
    guarded: bool = True
    """Is there an endpoint that leaves it to us whom it admits?"""

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells this cluster from others."""
        if self.service is None:
            return str(self.targets[0].address), 0, ""
        return str(self.service.key), self.port, self.backend.subset

    def codec(self, client: str) -> Codec:
        """How the endpoints are spoken to; ``client`` is the version of the request."""
        return upstream_codec(self.declared, client, self.settings.pool)

    @property
    def cluster(self) -> str:
        """The name in logs, in Istio's form."""
        host = self.service.hostname if self.service else DIRECT
        return f"inbound-vip|{self.port}|http/{self.backend.subset}|{host}".replace("/|", "|")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The decision about one request. Exactly one of ``reply`` and ``upstream`` is set.

    ``filters`` are those that the request has passed; the response passes them backwards.
    ``delay_s`` is an injected delay, before anything else happens. ``visit`` is what the client
    shows of a ``session``, and ``mirrors`` are those who get a copy.
    """

    verdict: Verdict
    route: Route | None
    reply: Reply | None = None
    upstream: Upstream | None = None
    filters: tuple[Filter, ...] = ()
    delay_s: float = 0.0
    session: Session | None = None
    visit: Visit | None = None
    mirrors: tuple[Upstream, ...] = ()

    def edit(self, response: Response) -> None:
        """Let the response pass the filters."""
        for item in reversed(self.filters):
            item.on_response(response)
