"""What a request says besides its path and body: how to write, how to delete, which page."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from ambientctl.local.apiserver.core.cluster import Call
from ambientctl.local.apiserver.core.deletion import DeleteOptions, read_options
from ambientctl.local.apiserver.core.patches import ACCEPTED, APPLY_PATCH
from ambientctl.local.apiserver.core.requests import Request, read_body
from ambientctl.local.apiserver.core.status import Object, bad_request, expired


def call_of(request: Request) -> Call:
    """The write options of a query; raises a 400 for values that do not exist."""
    agent = request.headers.get("user-agent", "").partition("/")[0]
    dry_run = request.query.get("dryRun", "")
    if dry_run not in {"", "All"}:
        raise bad_request(f"invalid dryRun {dry_run!r}: the only supported value is All")
    validation = request.query.get("fieldValidation", "") or "Warn"
    if validation not in {"Strict", "Warn", "Ignore"}:
        raise bad_request(f"invalid fieldValidation {validation!r}: must be Strict, Warn or Ignore")
    manager = request.query.get("fieldManager") or agent or "unknown"
    return Call(manager, dry_run == "All", request.flag("force"), validation, request.warnings)


def patch_body(request: Request) -> Any:
    """The patch; an apply must name its manager."""
    if request.media_type == APPLY_PATCH and not request.query.get("fieldManager"):
        raise bad_request(
            'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: '
            "is required for apply patch"
        )
    body = read_body(request, ACCEPTED)
    if body is None:
        raise bad_request("the request needs a body: the patch")
    return body


def delete_options(request: Request) -> DeleteOptions:
    """From the body, or else from the query."""
    body = read_body(request)
    return read_options(
        body, request.query.get("gracePeriodSeconds"), request.query.get("propagationPolicy")
    )


def page_of(request: Request, objects: list[Object]) -> tuple[list[Object], str, int]:
    """The objects of this page, the token for the next, and how many are left."""
    if token := request.query.get("continue", ""):
        try:
            last = tuple(msgspec.json.decode(base64.urlsafe_b64decode(token), type=list[str]))
        except (ValueError, msgspec.DecodeError):
            raise expired("The provided continue parameter is not valid") from None
        objects = [obj for obj in objects if _place(obj) > last]
    limit = request.number("limit") or 0
    if limit <= 0 or len(objects) <= limit:
        return objects, "", 0
    page = objects[:limit]
    place = msgspec.json.encode(list(_place(page[-1])))
    return page, base64.urlsafe_b64encode(place).decode(), len(objects) - limit


def _place(obj: Object) -> tuple[str, str]:
    """Where an object stands in the order of a list."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
