"""Secret ``istio-ca-secret``: a rotation's state as Kubernetes keeps it.

The first three entries are Istio's, so an upstream control plane reads the same Secret and signs
with the same root at every stage of a rotation.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from istiod_lite.core.certificates import Authority, Material, UnusableError
from istiod_lite.core.rotation import RootState

SECRET_NAME: Final = "istio-ca-secret"
SECRET_TYPE: Final = "istio.io/ca-root"
CERTIFICATE: Final = "ca-cert.pem"
KEY: Final = "ca-key.pem"
ROOTS: Final = "root-cert.pem"
NEXT_CERTIFICATE: Final = "ambient-next-cert.pem"
NEXT_KEY: Final = "ambient-next-key.pem"
ANNOUNCED_AT: Final = "ambient.istio.io/root-announced-at"
SWITCHED_AT: Final = "ambient.istio.io/root-switched-at"
PREVIOUS: Final = "ambient.istio.io/previous-root"
_HINT: Final = f"correct Secret {SECRET_NAME}, or delete it to get a new root"


def contents(secret: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of any Secret. Raises UnusableError."""
    try:
        return {
            name: base64.b64decode(text or "", validate=True)
            for name, text in (secret.get("data") or {}).items()
        }
    except (binascii.Error, ValueError, TypeError):
        name = (secret.get("metadata") or {}).get("name", "")
        raise UnusableError(
            f"Secret {name} holds data that is not base64", hint="write it anew with kubectl"
        ) from None


def read(secret: Mapping[str, Any]) -> RootState:
    """What the Secret says. Raises UnusableError that names what is missing."""
    data = contents(secret)
    missing = [name for name in (CERTIFICATE, KEY, ROOTS) if not data.get(name)]
    if missing:
        raise UnusableError(f"Secret {SECRET_NAME} has no {', '.join(missing)}", hint=_HINT)
    material = Material(data[CERTIFICATE], data[KEY], data[ROOTS])
    notes = (secret.get("metadata") or {}).get("annotations") or {}
    state = RootState(
        material=material,
        next_root=data.get(NEXT_CERTIFICATE, b""),
        next_key=data.get(NEXT_KEY, b""),
        announced_at=_time(notes.get(ANNOUNCED_AT)),
        switched_at=_time(notes.get(SWITCHED_AT)),
        previous=str(notes.get(PREVIOUS) or ""),
    )
    try:
        Authority(material)
        if state.next_root:
            Authority(Material(state.next_root, state.next_key, state.next_root))
    except UnusableError as error:
        raise UnusableError(f"Secret {SECRET_NAME}: {error}", hint=_HINT) from None
    return state


def write(state: RootState, namespace: str, old: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The Secret for a state; with ``old`` its successor, which a rival's write makes fail."""
    content = {
        CERTIFICATE: state.material.certificate,
        KEY: state.material.key,
        ROOTS: state.material.roots,
        # Istio writes these two empty.
        "cert-chain.pem": b"",
        "key.pem": b"",
    }
    if state.next_root:
        content |= {NEXT_CERTIFICATE: state.next_root, NEXT_KEY: state.next_key}
    notes = {
        ANNOUNCED_AT: state.announced_at.isoformat() if state.announced_at else "",
        SWITCHED_AT: state.switched_at.isoformat() if state.switched_at else "",
        PREVIOUS: state.previous,
    }
    metadata = dict((old or {}).get("metadata") or {"name": SECRET_NAME, "namespace": namespace})
    others = {k: v for k, v in (metadata.get("annotations") or {}).items() if k not in notes}
    metadata["annotations"] = others | {key: text for key, text in notes.items() if text}
    return {
        "metadata": metadata,
        "type": (old or {}).get("type") or SECRET_TYPE,
        "data": {name: base64.b64encode(value).decode() for name, value in content.items()},
    }


def _time(text: object) -> datetime | None:
    """A moment with its zone; None for anything else, since then the certificate's own counts."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
