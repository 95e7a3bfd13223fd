"""Asks external authorizers, over HTTP or gRPC."""

from __future__ import annotations

import time

import trio

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core import ext_authz_wire
from waypoint.core.ext_authz import (
    TOO_LARGE,
    Decision,
    failed,
    http_check,
    http_decision,
)
from waypoint.core.message import Request
from waypoint.core.providers import BodyInCheck, ExtAuthz
from waypoint.io.downstream import Body
from waypoint.io.mesh_call import CallError, MeshCalls

log = get_logger("waypoint")


class Authorizers:
    """One client for all providers; ``own_principal`` is the waypoint's SPIFFE identity."""

    def __init__(self, calls: MeshCalls, own_principal: str) -> None:
        self._calls = calls
        self._own = own_principal

    async def ask(
        self, provider: ExtAuthz, request: Request, body: Body | None = None, protocol: str = ""
    ) -> Decision:
        """Ask about a request, or without ``body`` about a raw connection.

        Raises ClientGoneError and BadMessageError of the client's body.
        """
        content, partial = b"", False
        wanted = provider.body
        if wanted is not None and body is not None:
            content, partial = await _begin(body, wanted)
            if partial and not wanted.partial:
                return Decision(refusal=TOO_LARGE)
        try:
            if not provider.grpc:
                asked = http_check(provider, request, partial=partial)
                answer = await self._calls.http(provider.at, asked, content, provider.timeout_s)
                return http_decision(provider, answer.status, answer.headers, answer.body)
            check = ext_authz_wire.check(
                request, self._own, time.time(), protocol, provider.told_headers
            )
            if wanted is not None and body is not None:
                ext_authz_wire.set_body(check, content, partial=partial, as_bytes=wanted.as_bytes)
            raw = await self._calls.grpc(
                provider.at, ext_authz_wire.METHOD, check.SerializeToString(), provider.timeout_s
            )
            return ext_authz_wire.decision(provider, raw)
        except CallError as error:
            log.warning(Event.AUTHORIZER_FAILED, provider=provider.name, error=str(error))
            return failed(provider)


async def _begin(body: Body, wanted: BodyInCheck) -> tuple[bytes, bool]:
    """The beginning of a body, which stays to be sent; True where there is more of it."""
    body.keep(wanted.max_bytes)
    while not body.complete and body.received <= wanted.max_bytes:
        await body.next()
    await trio.lowlevel.checkpoint()
    found = b"".join(bytes(piece) for piece in body.seen() if not isinstance(piece, tuple))
    return found[: wanted.max_bytes], not body.complete or len(found) > wanted.max_bytes
