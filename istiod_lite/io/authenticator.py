"""Who calls: service account tokens, checked by the API server (TokenReview)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

import trio

from ambient.api.errors import UnavailableError
from ambient.kube.core.resources import TOKEN_REVIEWS
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core.issue import Caller, RefusedError, caller_of

REVIEW_TIMEOUT_S: Final = 10.0
REMEMBERED_S: Final = 30.0
"""A node asks for many certificates with one token; a revoked token works this much longer."""
STALE_S: Final = 3600.0
"""While the API server is away a token that it has accepted before still counts, so that clients
can reconnect; kubelets renew tokens long before they expire."""
REMEMBERED_TOKENS: Final = 2000
MAX_TOKEN_BYTES: Final = 16 * 1024

log = get_logger("istiod")


class Authenticator:
    """Turns gRPC metadata into a Caller."""

    def __init__(self, kube: KubeClient, audience: str, cluster_id: str) -> None:
        self._kube = kube
        self._audience = audience
        self._cluster_id = cluster_id
        self._remembered: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        """By digest of the token: when it was reviewed, and whose it is."""

    async def caller(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Raises RefusedError, or a MeshError where the API server does not answer."""
        fields: dict[str, list[str]] = {}
        for key, value in metadata:
            if isinstance(value, str):
                fields.setdefault(key.lower(), []).append(value)
        clusters = fields.get("clusterid", [])
        if len(clusters) > 1 or any(one not in ("", self._cluster_id) for one in clusters):
            raise RefusedError(f"cluster {clusters} is not {self._cluster_id}")
        return await self.bearer(fields.get("authorization", []))

    async def bearer(self, headers: list[str]) -> Caller:
        """The caller behind ``Bearer <token>``."""
        scheme, _, token = (headers[0] if len(headers) == 1 else "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_BYTES:
            raise RefusedError("there is no usable authorization: Bearer <token>")
        # Tokens themselves are not kept in memory.
        digest = sha256(token.encode()).digest()
        known = self._remembered.get(digest)
        now = trio.current_time()
        if known is not None and now < known[0] + REMEMBERED_S:
            return known[1]
        try:
            caller = await self._review(token)
        except (UnavailableError, trio.TooSlowError) as error:
            if known is None or now > known[0] + STALE_S:
                raise
            log.warning(Event.TOKEN_STALE, caller=known[1].account, reason=str(error))
            return known[1]
        except RefusedError:
            self._remembered.pop(digest, None)
            raise
        self._remembered[digest] = (now, caller)
        self._remembered.move_to_end(digest)
        while len(self._remembered) > REMEMBERED_TOKENS:
            self._remembered.popitem(last=False)
        return caller

    async def _review(self, token: str) -> Caller:
        review = {"spec": {"token": token, "audiences": [self._audience]}}
        with trio.fail_after(REVIEW_TIMEOUT_S):
            answer = await self._kube.create(TOKEN_REVIEWS, {"metadata": {}, **review})
        return caller_of(answer.get("status") or {}, self._audience)
