"""Strategic merge patches: JSON merge patches that know which lists have keys."""

from __future__ import annotations

from typing import Any, Final

from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.merge_keys import ATOMIC, SET, Path, item_key, patch_keys
from ambientctl.local.apiserver.core.status import Object, bad_request

_DIRECTIVE: Final = "$patch"
_RETAIN: Final = "$retainKeys"
_ORDER: Final = "$setElementOrder/"
_DELETE_SCALARS: Final = "$deleteFromPrimitiveList/"


def strategic_merge(kind: Kind, original: Object, patch: Object, path: Path = ()) -> Object:
    """The original with the patch applied; neither is changed.

    Raises a 400 for a directive that does not exist and for list items without their key.
    """
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"unable to apply patch: unknown $patch directive {directive!r}")
    merged = dict(original)
    if (retain := patch.get(_RETAIN)) is not None:
        merged = {key: value for key, value in merged.items() if key in retain}
    for key, value in patch.items():
        if not key.startswith("$"):
            _merge_field(kind, merged, key, value, (*path, key))
    for key, value in patch.items():
        if key.startswith(_DELETE_SCALARS):
            name = key.removeprefix(_DELETE_SCALARS)
            merged[name] = [item for item in merged.get(name) or () if item not in value]
        elif key.startswith(_ORDER):
            name = key.removeprefix(_ORDER)
            if isinstance(items := merged.get(name), list):
                merged[name] = _ordered(items, value, patch_keys(kind, (*path, name)))
    return merged


def _merge_field(kind: Kind, merged: Object, key: str, value: Any, path: Path) -> None:
    """Apply one member of a patch to ``merged``, which is changed."""
    match value:
        case None:
            merged.pop(key, None)
        case dict() if value.get(_DIRECTIVE) == "delete":
            merged.pop(key, None)
        case dict():
            old = merged.get(key)
            merged[key] = strategic_merge(kind, old if isinstance(old, dict) else {}, value, path)
        case list():
            merged[key] = _merge_list(kind, merged.get(key), value, path)
        case _:
            merged[key] = value


def _merge_list(kind: Kind, original: Any, patch: list[Any], path: Path) -> list[Any]:
    """A list of the patch against the list of the object, by what the list is."""
    keys = patch_keys(kind, path)
    items = list(original) if isinstance(original, list) else []
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in patch):
        return [item for item in patch if _DIRECTIVE not in item]
    if keys == ATOMIC:
        return [_plain(kind, item, path) for item in patch]
    if keys == SET:
        return items + [item for item in patch if item not in items]
    return _merge_keyed(kind, items, patch, path)


def _merge_keyed(kind: Kind, items: list[Any], patch: list[Any], path: Path) -> list[Any]:
    """Items merge with their namesakes, new ones go to the end, deleted ones go."""
    (key,) = patch_keys(kind, path)
    for change in patch:
        if not isinstance(change, dict) or key not in change:
            raise bad_request(
                f"unable to apply patch: item of {'.'.join(path)} does not contain "
                f"declared merge key: {key}"
            )
        found = [i for i, item in enumerate(items) if item.get(key) == change[key]]
        if change.get(_DIRECTIVE) == "delete":
            items = [item for i, item in enumerate(items) if i not in found]
        elif found:
            items[found[0]] = strategic_merge(kind, items[found[0]], change, path)
        else:
            items.append(_plain(kind, change, path))
    return items


def _plain(kind: Kind, value: Any, path: Path) -> Any:
    """A value that replaces: the same without nulls and directives."""
    return strategic_merge(kind, {}, value, path) if isinstance(value, dict) else value


def _ordered(items: list[Any], order: list[Any], keys: tuple[str, ...]) -> list[Any]:
    """Items in the wanted order; those that the order does not name stay behind their neighbour."""
    rank = {item_key(item, keys): place for place, item in enumerate(order)}
    placed: list[tuple[int, Any]] = []
    behind = -1
    for item in items:
        behind = rank.get(item_key(item, keys), behind)
        placed.append((behind, item))
    # A named item goes before the unnamed ones that follow it: the sort is stable.
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]
