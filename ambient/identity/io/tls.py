"""TLS contexts of an identity: 1.3 only, both sides verified, the key never on a disk."""

from __future__ import annotations

import itertools
import os
import ssl

from ambient.identity.core.crl import Revocation
from ambient.identity.core.svid import Svid

HBONE_ALPN = "h2"


_generations = itertools.count(1)


class PeerContext(ssl.SSLContext):
    """A TLS context with what OpenSSL does not know about judging a peer."""

    revocation: Revocation | None = None
    """Asked for the peer's chain after every handshake."""
    generation: int = 0
    """Counts up in a process: of two contexts the later one has the newer certificate."""


def make_context(
    svid: Svid, server_side: bool, revocation: Revocation | None = None
) -> PeerContext:
    """A context that shows ``svid`` and trusts its roots.

    Names are not checked here: peers are identified by SPIFFE id, after the handshake.
    """
    protocol = ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
    context = PeerContext(protocol)
    context.revocation = revocation
    context.generation = next(_generations)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=svid.roots_pem.decode("ascii"))
    _load_key(context, svid)
    context.set_alpn_protocols([HBONE_ALPN])
    if server_side:
        # A ticket costs a write after every handshake, and connections are pooled anyway.
        context.num_tickets = 0
    return context


def _load_key(context: ssl.SSLContext, svid: Svid) -> None:
    """OpenSSL reads files only, so it gets one that lives in memory and ends with this call."""
    descriptor = os.memfd_create("svid", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as memory:
        memory.write(svid.private_key_pem + svid.certificate_chain_pem)
        memory.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
