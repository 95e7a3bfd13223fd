"""Certificates that somebody else puts into files: nobody is asked to sign."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from ambient.api.spiffe import Identity
from ambient.identity.core.crl import Revocation
from ambient.identity.core.svid import Svid, SvidError, parse_svid
from ambient.identity.io.cert_store import CertStore

KEY, CHAIN, ROOTS = "key.pem", "cert-chain.pem", "root-cert.pem"
"""The names under which Istio mounts a workload's certificate."""


class CertFiles(CertStore):
    """``<folder>/<namespace>/<service account>/`` holds an identity's three files.

    They are read again at half life, and from then on more and more often until they are new.
    """

    def __init__(self, folder: str, revocation: Revocation | None = None) -> None:
        super().__init__(_Nobody(), impersonate=False, revocation=revocation)
        self._folder = Path(folder)

    async def _fetch(self, identity: Identity) -> Svid:
        folder = self._folder / identity.namespace / identity.service_account
        try:
            key, chain, roots = ((folder / name).read_bytes() for name in (KEY, CHAIN, ROOTS))
            svid = parse_svid(identity, key, [chain.decode(), roots.decode()])
        except OSError as error:
            raise SvidError(
                f"no certificate for {identity}: {error.filename}: {error.strerror}",
                hint=f"put {KEY}, {CHAIN} and {ROOTS} into {folder}",
            ) from None
        except ValueError as error:
            raise SvidError(f"the files in {folder} cannot be used: {error}") from None
        if svid.not_after_s <= self._now():
            raise SvidError(f"the certificate in {folder} has expired", hint="replace the files")
        return svid


class _Nobody:
    async def sign(
        self, identity: Identity, csr_pem: bytes, *, impersonate: bool, ttl_s: int
    ) -> NoReturn:
        raise SvidError(f"there is no CA that could sign for {identity}")
