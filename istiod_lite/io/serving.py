"""Our own certificate, for the gRPC port and the webhook."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from istiod_lite.core.certificates import SERVING_TTL, Authority, key_pem
from istiod_lite.io.issuer import Issuer


class Keypair(NamedTuple):
    """PEM; ``authority`` signed it."""

    key: bytes
    chain: bytes
    authority: Authority
    renew_at: datetime

    def __repr__(self) -> str:
        return "Keypair(...)"


class ServingCertificate:
    """Our own certificate; renewed at half its life and whenever the authority changes, without
    closing a listener.
    """

    def __init__(self, issuer: Issuer, names: list[str]) -> None:
        self._issuer = issuer
        self._names = names

    def made(self) -> Keypair:
        """A new one."""
        now, authority = datetime.now(UTC), self._issuer.authority
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        chain = authority.serving(self._names, key, now=now, serial=serial)
        # An authority that ends sooner ends the certificate sooner.
        life = min(SERVING_TTL, authority.ends - now)
        return Keypair(key_pem(key), chain.encode(), authority, now + life / 2)

    def is_current(self, pair: Keypair) -> bool:
        """Whether it may be used further."""
        return pair.authority is self._issuer.authority and datetime.now(UTC) < pair.renew_at
