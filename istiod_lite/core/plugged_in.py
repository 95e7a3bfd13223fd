"""An authority that somebody else made: the files of Secret ``cacerts`` or of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography import x509

from ambient.api.errors import MeshError
from istiod_lite.core.certificates import Authority, Material, UnusableError
from istiod_lite.core.rotation import fingerprint

SECRET_NAME: Final = "cacerts"
ISTIO_FILES: Final = ("ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem")
TLS_FILES: Final = ("tls.crt", "tls.key", "ca.crt")
"""As cert-manager writes a ``kubernetes.io/tls`` Secret; ``tls.crt`` holds the chain too."""
CRL_FILE: Final = "ca-crl.pem"
EXTRA_ROOTS: Final = "extra-root-cert.pem"


def is_there(files: Mapping[str, bytes]) -> bool:
    """Whether anybody meant to plug in an authority."""
    return any(name in files for name in (*ISTIO_FILES, *TLS_FILES))


def read(files: Mapping[str, bytes], place: str) -> Authority:
    """The authority in these files. Raises MeshError that names ``place`` and what is missing.

    A part of the files is an error, never a reason to fall back to a root of our own: the mesh
    would split in two that do not trust each other.
    """
    layout = TLS_FILES if not any(one in files for one in ISTIO_FILES) else ISTIO_FILES
    missing = [name for name in layout if name not in files]
    if missing:
        raise MeshError(
            f"the plugged-in CA in {place} is incomplete: there is no {', '.join(missing)}",
            hint=f"give it all of {', '.join(ISTIO_FILES)} (or of {', '.join(TLS_FILES)}), "
            f"or remove {place} to get a self-signed root",
        )
    crl = files.get(CRL_FILE, b"")
    roots = files[layout[2]]
    if extra := files.get(EXTRA_ROOTS, b"").strip():
        roots = roots.strip() + b"\n" + extra + b"\n"
    chain = files[ISTIO_FILES[3]] if layout is ISTIO_FILES else b""
    try:
        return Authority(Material(files[layout[0]], files[layout[1]], roots, chain, crl))
    except UnusableError as error:
        raise MeshError(
            f"the plugged-in CA in {place} cannot be used: {error}",
            hint=f"{layout[0]} must be a CA certificate for {layout[1]} and be signed, directly or "
            f"through its chain, by a root in {layout[2]}",
        ) from None


def refusal(old: Authority, new: Authority, *, multi_root: bool) -> str:
    """Why a running mesh must not change from ``old`` to ``new``; empty if it may.

    Who trusts only the old roots must still trust what the new authority signs, and the other way
    round: add the new root, change the signer, then drop the old root, with time in between.
    """
    before, after = _prints(old.roots), _prints(new.roots)
    if before == after:
        return ""
    if not multi_root:
        return (
            "its root certificates differ from the ones that the mesh trusts; set "
            "ISTIO_MULTIROOT_MESH=true to change roots while the mesh runs"
        )
    if not (before < after or after < before):
        return (
            "its root certificates neither contain all roots that the mesh trusts nor are a part "
            "of them; first add the new root to the old ones, later drop the old ones"
        )
    return ""


def _prints(roots: tuple[x509.Certificate, ...]) -> frozenset[str]:
    return frozenset(fingerprint(root) for root in roots)
