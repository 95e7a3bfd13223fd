"""When a self-signed root is replaced. Time is an argument; the Secret is the whole state.

A new root has a new key, so that a key never lives longer than its certificate. Nobody may meet a
chain under a root that it has not heard of, so replacing takes three steps with time in between:

1. announced: the next root joins the bundle that everybody trusts; the old one still signs.
2. switched: once everybody has renewed its certificate, and with it its bundle, the new root signs.
3. retired: once nothing that the old root signed is valid any more, it leaves the bundle.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from istiod_lite.core.certificates import MAX_TTL, Authority, Material

GRACE_SHARE: Final = 0.2
"""Of a root's life: rotation begins when less is left (Istio: 20 %)."""


class Step(StrEnum):
    """What is due."""

    KEEP = "keep"
    ANNOUNCE = "announce"
    SWITCH = "switch"
    RETIRE = "retire"


class Rules(NamedTuple):
    """``overlap``: how long a step waits for everybody to follow the one before it. Never shorter
    than the longest life of a certificate, since clients learn roots when they renew.
    """

    grace_share: float = GRACE_SHARE
    overlap: timedelta = MAX_TTL


class RootState(NamedTuple):
    """Where a rotation stands. ``previous`` is the fingerprint of the root that has to go."""

    material: Material
    next_root: bytes = b""
    next_key: bytes = b""
    announced_at: datetime | None = None
    switched_at: datetime | None = None
    previous: str = ""

    def __repr__(self) -> str:
        return f"RootState(announced_at={self.announced_at}, switched_at={self.switched_at})"


class Decision(NamedTuple):
    """The step, why, and when to look again."""

    step: Step
    reason: str
    look_again: datetime


def decide(state: RootState, now: datetime, rules: Rules) -> Decision:
    """What is due now. Raises UnusableError where the state holds no authority."""
    signer = Authority(state.material).certificate
    begins, ends = signer.not_valid_before_utc, signer.not_valid_after_utc
    if state.previous:
        gone_at = _retires(state, rules)
        if now >= gone_at:
            return Decision(Step.RETIRE, "all that the previous root signed has expired", now)
        if not state.next_root:
            return Decision(Step.KEEP, "the previous root is still trusted", gone_at)
    if not state.next_root:
        rotates_at = ends - (ends - begins) * rules.grace_share
        if now >= rotates_at:
            return Decision(Step.ANNOUNCE, f"the root ends at {ends.isoformat()}", now)
        return Decision(Step.KEEP, "the root has long to live", rotates_at)
    announced = state.announced_at or _first(state.next_root).not_valid_before_utc
    # A short-lived root leaves less time than the rules want: half of what it has.
    switches_at = announced + max(min(rules.overlap, (ends - announced) / 2), timedelta(0))
    if now >= switches_at:
        return Decision(Step.SWITCH, f"the next root was announced at {announced}", now)
    return Decision(Step.KEEP, "the next root is being announced", switches_at)


def announced(state: RootState, root: bytes, key: bytes, now: datetime) -> RootState:
    """Both roots are trusted; the old one signs."""
    roots = state.material.roots.strip() + b"\n" + root
    return state._replace(
        material=state.material._replace(roots=roots),
        next_root=root,
        next_key=key,
        announced_at=now,
    )


def switched(state: RootState, now: datetime) -> RootState:
    """Both roots are trusted; the new one signs."""
    old = _first(state.material.certificate)
    return RootState(
        material=state.material._replace(certificate=state.next_root, key=state.next_key),
        switched_at=now,
        previous=fingerprint(old),
    )


def retired(state: RootState) -> RootState:
    """Only the new root is left, and roots that somebody else added to the bundle."""
    kept = [
        root.public_bytes(serialization.Encoding.PEM)
        for root in x509.load_pem_x509_certificates(state.material.roots)
        if fingerprint(root) != state.previous
    ]
    return state._replace(
        material=state.material._replace(roots=b"".join(kept)), switched_at=None, previous=""
    )


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _retires(state: RootState, rules: Rules) -> datetime:
    """Nothing that it signed lives longer than the overlap, nor longer than itself."""
    since = state.switched_at or datetime.min.replace(tzinfo=UTC)
    roots = x509.load_pem_x509_certificates(state.material.roots)
    ends = [one.not_valid_after_utc for one in roots if fingerprint(one) == state.previous]
    return min([since + rules.overlap, *ends])


def _first(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pem)[0]
