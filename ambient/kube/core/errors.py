"""What the API server answers when it refuses."""

from __future__ import annotations

import re

import msgspec

from ambient.api.errors import MeshError


class KubeError(MeshError):
    """The API server refused: ``status`` is HTTP's code, ``reason`` Kubernetes' one word."""

    def __init__(self, status: int, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason
        self.message = message


class NotFound(KubeError):  # noqa: N818 - named as Kubernetes names the reason
    """404: the object, its namespace or its whole kind is absent."""


class Conflict(KubeError):  # noqa: N818
    """409: it exists already, or somebody else changed it in between."""


class Gone(KubeError):  # noqa: N818
    """410: the resourceVersion is too old; list again."""


_HINTS = {
    401: "the credentials are not valid (any more); look at the kubeconfig or the mounted token",
    403: "the account lacks a Role for this; see manifests for the rules it needs",
}
_FORBIDDEN = re.compile(
    r'cannot (?P<verb>[\w-]+) resource "(?P<what>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)
"""The sentence of RBAC (k8s.io/apiserver pkg/endpoints/handlers/responsewriters, errors.go)."""
_LACKS_A_ROLE = re.compile(r" cannot |attempting to grant RBAC permissions|^$|^HTTP ")
"""In what an authorizer says. Admission (a quota, Pod Security, a namespace that is being deleted)
refuses with 403, too, and says itself why; a proxy in between may say nothing.
"""
_CLASSES: dict[int, type[KubeError]] = {404: NotFound, 409: Conflict, 410: Gone}


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""


def error_from(status: int, body: bytes, what: str) -> KubeError:
    """The error for an answer; ``what`` names the request where the answer does not explain."""
    try:
        answer = msgspec.json.decode(body, type=_Status)
    except msgspec.MsgspecError:
        # A proxy in between, or a server that is starting: not a Status object.
        answer = _Status(message=body[:200].decode(errors="replace").strip())
    message = answer.message or f"HTTP {status}"
    hint = _missing_rule(message) if status == 403 else _HINTS.get(status, "")
    return _CLASSES.get(status, KubeError)(status, answer.reason, f"{what}: {message}", hint=hint)


def _missing_rule(message: str) -> str:
    """Which rule a Role has to have, and how its owner looks; empty for admission's refusal."""
    found = _FORBIDDEN.search(message)
    if found is None:
        return _HINTS[403] if _LACKS_A_ROLE.search(message) else ""
    what, slash, sub = found["what"].partition("/")
    kind = f"{what}.{found['group']}" if found["group"] else what
    kind += f" --subresource={sub}" if slash else ""
    where = f"-n {found['namespace']}" if found["namespace"] else "-A"
    return (
        f"the account lacks a Role that allows {found['verb']} on {found['what']}: "
        f"kubectl auth can-i {found['verb']} {kind} {where}"
    )
