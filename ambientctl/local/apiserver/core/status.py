"""Kubernetes ``Status`` errors. The only file that knows their wording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

Object = dict[str, Any]
"""A Kubernetes object as decoded JSON."""


class Cause(NamedTuple):
    """One thing that is wrong with one field."""

    reason: str
    message: str
    field: str


class ApiError(Exception):
    """A refused request; ``body()`` is what the client reads."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def body(self) -> Object:
        """The ``v1/Status`` object for this error."""
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details is not None:
            status["details"] = self.details
        return status


def qualified(group: str, plural: str) -> str:
    """A resource as error messages spell it: ``pods``, ``deployments.apps``."""
    return f"{plural}.{group}" if group else plural


def bad_request(message: str) -> ApiError:
    """400: the request cannot be read."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: no credentials, or none that we accept."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(group: str, plural: str, name: str, why: str) -> ApiError:
    """403: admission refuses it."""
    message = f'{qualified(group, plural)} "{name}" is forbidden: {why}'
    return ApiError(403, "Forbidden", message, {"name": name, "group": group, "kind": plural})


def path_not_found() -> ApiError:
    """404 for a path that names no resource."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def not_found(group: str, plural: str, name: str) -> ApiError:
    """404 for an object."""
    message = f'{qualified(group, plural)} "{name}" not found'
    return ApiError(404, "NotFound", message, {"name": name, "group": group, "kind": plural})


def method_not_allowed(method: str) -> ApiError:
    """405: the resource has no such verb."""
    message = f"the server does not allow this method on the requested resource ({method})"
    return ApiError(405, "MethodNotAllowed", message)


def already_exists(group: str, plural: str, name: str) -> ApiError:
    """409 on create."""
    message = f'{qualified(group, plural)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, {"name": name, "group": group, "kind": plural})


def conflict(group: str, plural: str, name: str, why: str = "") -> ApiError:
    """409 on update; the default text is the one for a stale resourceVersion."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version "
        "and try again"
    )
    message = f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": {why}'
    return ApiError(409, "Conflict", message, {"name": name, "group": group, "kind": plural})


def expired(message: str) -> ApiError:
    """410: the client must list again."""
    return ApiError(410, "Expired", message)


def unsupported_media_type(given: str, accepted: Sequence[str]) -> ApiError:
    """415: the body has a type that we do not read."""
    message = (
        f"the body of the request was in an unknown format ({given or 'no Content-Type'}) - "
        f"accepted media types include: {', '.join(accepted)}"
    )
    return ApiError(415, "UnsupportedMediaType", message)


def too_large(limit_bytes: int) -> ApiError:
    """413: a body above our limit."""
    message = f"Request entity too large: limit is {limit_bytes}"
    return ApiError(413, "RequestEntityTooLarge", message)


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> ApiError:
    """422: the object is readable and wrong; every cause names its field."""
    parts = [
        f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in causes
    ]
    text = parts[0] if len(parts) == 1 else "[" + ", ".join(parts) + "]"
    details: Object = {
        "name": name,
        "group": group,
        "kind": kind,
        "causes": [cause._asdict() for cause in causes],
    }
    message = f'{qualified(group, kind)} "{name}" is invalid: {text}'
    return ApiError(422, "Invalid", message, details)


def internal_error() -> ApiError:
    """500: our own mistake; the log has the details."""
    return ApiError(
        500, "InternalError", "Internal error occurred: see the log of the local mesh's API server"
    )


def required(field: str, detail: str = "") -> Cause:
    """A missing field."""
    return Cause("FieldValueRequired", "Required value" + (f": {detail}" if detail else ""), field)


def bad_value(field: str, value: object, detail: str) -> Cause:
    """A field whose value cannot be."""
    return Cause("FieldValueInvalid", f"Invalid value: {shown(value)}: {detail}", field)


def not_supported(field: str, value: object, allowed: Sequence[object]) -> Cause:
    """A field whose value is none of the allowed ones."""
    choices = ", ".join(shown(choice) for choice in allowed)
    message = f"Unsupported value: {shown(value)}: supported values: {choices}"
    return Cause("FieldValueNotSupported", message, field)


def shown(value: object) -> str:
    """A value inside a message: strings quoted, everything else as JSON-like text."""
    match value:
        case str():
            return '"' + value.replace('"', '\\"') + '"'
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case dict() | list():
            return msgspec.json.encode(value).decode()
        case _:
            return str(value)
