"""Where the authority comes from: a plugged-in one if there is any, else a root of our own."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Protocol

import trio

from ambient.api.errors import UnavailableError
from ambient.kube.core.errors import KubeError
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core.certificates import Authority
from istiod_lite.core.plugged_in import SECRET_NAME
from istiod_lite.core.rotation import Rules
from istiod_lite.io.ca_store import RETRY_S, SelfSigned
from istiod_lite.io.issuer import Issuer
from istiod_lite.io.plugged_in import Folder, FromSecret
from istiod_lite.settings import Settings

log = get_logger("ca")


class Source(Protocol):
    """What keeps the issuer's authority as it should be."""

    async def follow(self, issuer: Issuer) -> None:
        """Adopt changes; until cancelled, by every replica."""

    async def lead(self) -> None:
        """What one replica alone may do."""


async def open_source(kube: KubeClient, settings: Settings) -> tuple[Source, Authority]:
    """The authority, and what to run for it. Raises MeshError where it cannot be used.

    While the API server does not answer this waits: to take its silence for the absence of a
    plugged-in authority would give the mesh a second root.
    """
    namespace, multi_root = settings.pod_namespace, settings.istio_multiroot_mesh
    folder = Folder(Path(settings.root_ca_dir), multi_root=multi_root)
    if (authority := await folder.load()) is not None:
        return folder, authority
    secret = FromSecret(kube, namespace, multi_root=multi_root)
    if (authority := await _patiently(secret)) is not None:
        return secret, authority
    own = SelfSigned(
        kube,
        namespace,
        settings.trust_domain,
        rules=Rules(
            settings.citadel_self_signed_root_cert_grace_period_percentile / 100,
            timedelta(seconds=settings.max_workload_cert_ttl_s),
        ),
        root_ttl=timedelta(seconds=settings.citadel_self_signed_ca_cert_ttl_s),
    )
    return own, await own.load()


async def _patiently(secret: FromSecret) -> Authority | None:
    while True:
        try:
            return await secret.load()
        except (KubeError, UnavailableError) as error:
            log.warning(Event.CONTROLLER_RETRY, what=f"Secret {SECRET_NAME}", error=str(error),
                        hint=error.hint, wait_s=RETRY_S)  # fmt: skip
        await trio.sleep(RETRY_S)
