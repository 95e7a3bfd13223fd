"""An AdmissionReview in, its answer out (kubernetes.io, "Dynamic admission control")."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from istiod_lite.core.validation.objects import check

OPERATIONS: Final = ("CREATE", "UPDATE")
MAX_MESSAGE_CHARS: Final = 4000
MAX_WARNING_CHARS: Final = 256
"""Kubernetes cuts longer ones."""


class ReviewError(Exception):
    """This is no admission review."""


class Kind(msgspec.Struct, frozen=True):
    """Of which kind the object is."""

    group: str = ""
    version: str = ""
    kind: str = ""


class Resource(msgspec.Struct, frozen=True):
    """Its URL's words."""

    group: str = ""
    version: str = ""
    resource: str = ""


class Request(msgspec.Struct, frozen=True):
    """What the API server asks about."""

    uid: str
    kind: Kind = Kind()
    resource: Resource = Resource()
    operation: str = ""
    name: str = ""
    namespace: str = ""
    object: Any = None


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    request: Request
    api_version: str = "admission.k8s.io/v1"


class Verdict(NamedTuple):
    """``reason`` is empty for objects that may be stored."""

    request: Request
    reason: str
    message: str
    body: bytes


def review(body: bytes) -> Verdict:
    """Judge one object. Raises ReviewError."""
    try:
        asked = msgspec.json.decode(body, type=_Review)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ReviewError(f"the body is no AdmissionReview: {error}") from None
    request = asked.request
    if request.operation not in OPERATIONS:
        return _verdict(asked, "", "", [])
    if not isinstance(request.object, dict):
        return _verdict(asked, "yaml_decode_error", "there is no object in the review", [])
    report = check(request.object)
    message = "; ".join(str(one) for one in report.problems)
    warnings = [str(one) for one in report.warnings]
    reason = "invalid_resource" if report.problems else ""
    return _verdict(asked, reason, message, warnings)


def _verdict(asked: _Review, reason: str, message: str, warnings: list[str]) -> Verdict:
    response: dict[str, Any] = {"uid": asked.request.uid, "allowed": not reason}
    if reason:
        text = f"{asked.request.kind.kind or 'object'} is not valid: {message}"
        response["status"] = {
            "status": "Failure",
            "message": text[:MAX_MESSAGE_CHARS],
            "reason": "Invalid",
            "code": 422,
        }
    if warnings:
        response["warnings"] = [one[:MAX_WARNING_CHARS] for one in warnings]
    answer = {"apiVersion": asked.api_version, "kind": "AdmissionReview", "response": response}
    return Verdict(asked.request, reason, message, msgspec.json.encode(answer))
