"""One patch against one object, by the media type of the request."""

from __future__ import annotations

from typing import Any, Final

import jsonpatch

from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.status import (
    Cause,
    Object,
    bad_request,
    invalid,
    unsupported_media_type,
)
from ambientctl.local.apiserver.core.strategic import strategic_merge

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

ACCEPTED: Final = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)


def patched(kind: Kind, original: Object, media_type: str, patch: Any) -> Object:
    """The object after the patch; ``original`` is not changed.

    Raises 400 for a patch of the wrong shape, 415 for a media type that the kind does not take,
    422 for a JSON patch whose operations do not fit the object.
    """
    if media_type == STRATEGIC_PATCH and kind.custom:
        raise unsupported_media_type(media_type, [m for m in ACCEPTED if m != STRATEGIC_PATCH])
    match media_type:
        case "application/json-patch+json":
            return _json_patch(kind, original, patch)
        case "application/merge-patch+json":
            return _merge(original, _mapping(patch))
        case "application/strategic-merge-patch+json":
            return strategic_merge(kind, original, _mapping(patch))
        case _:
            raise unsupported_media_type(media_type, ACCEPTED)


def _mapping(patch: Any) -> Object:
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: the patch must be a JSON object")
    return patch


def _merge(original: Any, patch: Object) -> Object:
    """RFC 7386: null removes, an object merges, everything else replaces."""
    merged = dict(original) if isinstance(original, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _merge(merged.get(key), value)
        else:
            merged[key] = value
    return merged


def _json_patch(kind: Kind, original: Object, patch: Any) -> Object:
    if not isinstance(patch, list):
        raise bad_request("error decoding patch: a JSON patch must be an array of operations")
    name = original["metadata"].get("name", "")
    try:
        result = jsonpatch.JsonPatch(patch).apply(original)
    except jsonpatch.JsonPatchTestFailed as error:
        raise _refused(kind, name, f"testing value failed: {error}") from None
    except jsonpatch.InvalidJsonPatch as error:
        raise bad_request(f"error decoding patch: {error}") from None
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError) as error:
        raise _refused(kind, name, str(error)) from None
    if not isinstance(result, dict):
        raise _refused(kind, name, "the patch replaces the object by something else")
    return result


def _refused(kind: Kind, name: str, why: str) -> Exception:
    message = f"the server rejected our request due to an error in our request: {why}"
    return invalid(kind.group, kind.kind, name, [Cause("FieldValueInvalid", message, "patch")])
