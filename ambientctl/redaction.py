"""Secrets out of what leaves the cluster: Secret data, private keys, tokens, passwords."""

from __future__ import annotations

import re
from typing import Any, Final

_KEYS: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*")
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)[ \t]+[A-Za-z0-9._~+/=-]{8,}")
_URL_PASSWORD: Final = re.compile(r"(?<=://)([^/\s:@]+):([^/\s@]+)@")
_NAMES: Final = re.compile(
    r"(?i)(password|passwd|secret|token|credential|api[-_]?key|private[-_]?key)"
)
_ASSIGNED: Final = re.compile(
    r"(?i)\b([\w.-]*(?:password|passwd|api[-_]?key|secret[-_]?key|access[-_]?key)[\w.-]*)"
    r"(\"?\s*[=:]\s*\"?)([^\s\",;]{3,})"
)
GONE: Final = "<redacted>"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_HARMLESS: Final = ("name", "kind", "namespace", "key", "secretName", "path")
"""Fields that name a secret and do not hold it."""


def redact_text(text: str) -> str:
    """What looks like a key, token or password is replaced."""
    text = _KEYS.sub(f"{GONE} private key", text)
    text = _JWT.sub(f"{GONE} token", text)
    text = _BEARER.sub(rf"\1 {GONE}", text)
    text = _URL_PASSWORD.sub(rf"\1:{GONE}@", text)
    return _ASSIGNED.sub(rf"\1\2{GONE}", text)


def redact_object(obj: dict[str, Any]) -> dict[str, Any]:
    """A Kubernetes object; of a Secret only the names and sizes of its entries are left."""
    if obj.get("kind") == "Secret":
        made = {key: value for key, value in obj.items() if key not in ("data", "stringData")}
        for field in ("data", "stringData"):
            if isinstance(obj.get(field), dict):
                made[field] = {k: f"{GONE} {len(str(v))} characters" for k, v in obj[field].items()}
        annotations = (made.get("metadata") or {}).get("annotations")
        if isinstance(annotations, dict) and LAST_APPLIED in annotations:
            kept = {**annotations, LAST_APPLIED: GONE}
            made["metadata"] = {**made["metadata"], "annotations": kept}
        return made
    cleaned: dict[str, Any] = _clean(obj)
    return cleaned


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, list):
        return [_clean(one) for one in value]
    if not isinstance(value, dict):
        return value
    # Environment variables: the name says what the value is.
    name = value.get("name")
    if isinstance(name, str) and isinstance(value.get("value"), str) and _NAMES.search(name):
        return {**value, "value": GONE}
    return {
        key: GONE
        if isinstance(one, str) and key not in _HARMLESS and _NAMES.fullmatch(str(key))
        else _clean(one)
        for key, one in value.items()
    }
