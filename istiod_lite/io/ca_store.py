"""A root of our own in Secret istio-ca-secret: the first replica makes it, the leader rotates."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ambient.api.errors import MeshError
from ambient.kube.core.errors import Conflict, NotFound
from ambient.kube.core.resources import SECRETS
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core import root_secret, rotation
from istiod_lite.core.certificates import (
    ROOT_TTL,
    Authority,
    Material,
    UnusableError,
    key_pem,
    self_signed,
)
from istiod_lite.core.root_secret import SECRET_NAME
from istiod_lite.core.rotation import RootState, Rules, Step
from istiod_lite.io.issuer import Issuer

RETRY_S: Final = 5.0
"""Istio: how often a Secret that cannot be read is tried again."""
LONGEST_SLEEP_S: Final = 3600.0
"""Istio: CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL; clocks may be set in between."""

log = get_logger("ca")


class SelfSigned:
    """The mesh's own root. ``now`` is the clock."""

    def __init__(
        self,
        kube: KubeClient,
        namespace: str,
        trust_domain: str,
        *,
        rules: Rules | None = None,
        root_ttl: timedelta = ROOT_TTL,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._trust_domain = trust_domain
        self._rules = rules or Rules()
        self._root_ttl = root_ttl
        self._now = now
        self._secret_changed = trio.Event()

    async def load(self) -> Authority:
        """Read the Secret, or create it. Raises MeshError if what is in it cannot be used.

        While the API server does not answer this waits and tries again.
        """
        while True:
            try:
                return await self._read_or_create()
            except Conflict:
                continue  # another replica was first: read what it made
            except UnusableError:
                raise
            except MeshError as error:
                log.warning(Event.CONTROLLER_RETRY, what=self._name, error=str(error),
                            hint=error.hint, wait_s=RETRY_S)  # fmt: skip
            await trio.sleep(RETRY_S)

    async def follow(self, issuer: Issuer) -> None:
        """Adopt what the leader, or an operator, writes; until cancelled, by every replica."""
        field = f"metadata.name={SECRET_NAME}"
        events = follow(self._kube, SECRETS, namespace=self._namespace, field_selector=field)
        async with events:
            async for event in events:
                if event.kind is EventKind.SYNCED:
                    continue
                if event.kind is EventKind.DELETED:
                    log.error(Event.CA_REFUSED, what=self._name, reason="it was deleted",
                              hint="restart the control plane to get a new root; until then "
                              "the old one signs")  # fmt: skip
                    continue
                try:
                    issuer.adopt(Authority(root_secret.read(event.object).material))
                except UnusableError as error:
                    log.error(Event.CA_REFUSED, what=self._name, reason=str(error),
                              hint="the authority before it goes on signing")  # fmt: skip
                self._secret_changed.set()
                self._secret_changed = trio.Event()

    async def lead(self) -> None:
        """Rotate when it is due; until cancelled, by the leader only."""
        while True:
            changed = self._secret_changed
            wait_s = RETRY_S
            try:
                wait_s = await self._rotate()
            except Conflict:
                continue  # somebody wrote in between: look again
            except MeshError as error:
                log.warning(Event.CONTROLLER_RETRY, what=self._name, error=str(error),
                            hint=error.hint, wait_s=RETRY_S)  # fmt: skip
            with trio.move_on_after(wait_s):
                await changed.wait()

    async def _rotate(self) -> float:
        """Take the step that is due; seconds until the next look."""
        secret = await self._kube.get(SECRETS, SECRET_NAME, self._namespace)
        state = root_secret.read(secret)
        now = self._now()
        decision = rotation.decide(state, now, self._rules)
        match decision.step:
            case Step.KEEP:
                left = (decision.look_again - now).total_seconds()
                return min(max(left, 0.1), LONGEST_SLEEP_S)
            case Step.ANNOUNCE:
                state = rotation.announced(state, *self._new_root(), now)
            case Step.SWITCH:
                state = rotation.switched(state, now)
            case Step.RETIRE:
                state = rotation.retired(state)
        # With its resourceVersion: of two writers one gets a Conflict.
        await self._kube.replace(SECRETS, root_secret.write(state, self._namespace, secret))
        log.info(Event.CA_ROTATED, step=decision.step.value, reason=decision.reason)
        return 0.1

    async def _read_or_create(self) -> Authority:
        try:
            state = root_secret.read(await self._kube.get(SECRETS, SECRET_NAME, self._namespace))
            made = False
        except NotFound:
            root, key = self._new_root()
            state = RootState(Material(root, key, root))
            await self._kube.create(SECRETS, root_secret.write(state, self._namespace))
            made = True
        authority = Authority(state.material)
        log.info(
            Event.CA_READY,
            root=authority.certificate.subject.rfc4514_string(),
            until=authority.ends.isoformat(),
            created=made,
        )
        return authority

    def _new_root(self) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        root = self_signed(
            key, self._trust_domain, now=self._now(), serial=serial, ttl=self._root_ttl
        )
        return root, key_pem(key)

    @property
    def _name(self) -> str:
        return f"Secret {self._namespace}/{SECRET_NAME}"
