"""A plugged-in authority: Secret ``cacerts``, or the folder where it is mounted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import NotFound
from ambient.kube.core.resources import SECRETS
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core import plugged_in, root_secret
from istiod_lite.core.certificates import Authority
from istiod_lite.core.plugged_in import SECRET_NAME
from istiod_lite.io.issuer import Issuer

POLL_S: Final = 2.0
"""A kubelet refreshes mounted Secrets about once a minute."""
MAX_FILE_BYTES: Final = 1 << 20
"""A Secret cannot hold more."""

log = get_logger("ca")


class _PluggedIn:
    """What both places have in common."""

    def __init__(self, place: str, *, multi_root: bool) -> None:
        self._place = place
        self._multi_root = multi_root

    def _found(self, files: dict[str, bytes]) -> Authority:
        authority = plugged_in.read(files, self._place)
        log.info(
            Event.CA_READY,
            place=self._place,
            signer=authority.certificate.subject.rfc4514_string(),
            until=authority.ends.isoformat(),
            crl=bool(authority.crl_pem),
        )
        return authority

    def _adopt(self, issuer: Issuer, files: dict[str, bytes]) -> None:
        """Change over if the mesh survives that; else say why not and keep what there is."""
        try:
            authority = plugged_in.read(files, self._place)
        except MeshError as error:
            log.error(Event.CA_REFUSED, what=self._place, reason=str(error), hint=error.hint)
            return
        reason = plugged_in.refusal(issuer.authority, authority, multi_root=self._multi_root)
        if reason:
            log.error(Event.CA_REFUSED, what=self._place, reason=reason,
                      hint="the authority before it goes on signing")  # fmt: skip
            return
        issuer.adopt(authority)

    async def lead(self) -> None:
        """Whoever plugged it in also rotates it."""


class Folder(_PluggedIn):
    """The files of a folder, read again when they change."""

    def __init__(self, folder: Path, *, multi_root: bool, poll_s: float = POLL_S) -> None:
        super().__init__(str(folder), multi_root=multi_root)
        self._folder = folder
        self._poll_s = poll_s

    async def load(self) -> Authority | None:
        """The authority, None where the folder holds none. Raises MeshError."""
        files = await trio.to_thread.run_sync(self._read)
        self._last = files
        return self._found(files) if plugged_in.is_there(files) else None

    async def follow(self, issuer: Issuer) -> None:
        """Until cancelled. Files that are being replaced are taken once they stand still."""
        last = self._last
        while True:
            await trio.sleep(self._poll_s)
            files = await trio.to_thread.run_sync(self._read)
            if files == last:
                continue
            await trio.sleep(min(self._poll_s, 0.1))
            if await trio.to_thread.run_sync(self._read) == files:
                last = files
                self._adopt(issuer, files)

    def _read(self) -> dict[str, bytes]:
        names = (
            *plugged_in.ISTIO_FILES,
            *plugged_in.TLS_FILES,
            plugged_in.CRL_FILE,
            plugged_in.EXTRA_ROOTS,
        )
        found = {}
        for name in names:
            try:
                with (self._folder / name).open("rb") as file:
                    found[name] = file.read(MAX_FILE_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise MeshError(
                    f"cannot read {self._folder / name}: {error.strerror}",
                    hint="its owner must let the control plane read it",
                ) from None
        return found


class FromSecret(_PluggedIn):
    """The Secret itself, for installations that do not mount it."""

    def __init__(self, kube: KubeClient, namespace: str, *, multi_root: bool) -> None:
        super().__init__(f"Secret {namespace}/{SECRET_NAME}", multi_root=multi_root)
        self._kube = kube
        self._namespace = namespace

    async def load(self) -> Authority | None:
        """The authority, None where the Secret is absent. Raises MeshError."""
        try:
            secret = await self._kube.get(SECRETS, SECRET_NAME, self._namespace)
        except NotFound:
            return None
        return self._found(root_secret.contents(secret))

    async def follow(self, issuer: Issuer) -> None:
        """Until cancelled."""
        field = f"metadata.name={SECRET_NAME}"
        events = follow(self._kube, SECRETS, namespace=self._namespace, field_selector=field)
        async with events:
            async for event in events:
                if event.kind is EventKind.DELETED:
                    log.error(Event.CA_REFUSED, what=self._place, reason="it was deleted",
                              hint="put it back; until then the last one signs")  # fmt: skip
                elif event.kind is not EventKind.SYNCED:
                    try:
                        files = root_secret.contents(event.object)
                    except MeshError as error:
                        log.error(Event.CA_REFUSED, what=self._place, reason=str(error))
                        continue
                    self._adopt(issuer, files)
