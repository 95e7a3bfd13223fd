"""Objects as the rows that ``kubectl get`` prints."""

from __future__ import annotations

import datetime
from typing import Any

from ambientctl.local.apiserver.core import columns, custom_columns
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.status import Object, bad_request


def table(
    kind: Kind, objects: list[Object], now: datetime.datetime, include: str, *, header: bool = True
) -> Object:
    """A ``meta.k8s.io/v1`` Table; ``include`` is the includeObject parameter.

    The columns may be left out after the first event of a watch (``header=False``).
    """
    if kind.custom:
        definitions, cells = custom_columns.definitions(kind), custom_columns.cells
    else:
        definitions, cells = columns.definitions(kind), columns.cells
    rows = [{"cells": cells(kind, obj, now), "object": _carried(obj, include)} for obj in objects]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": definitions if header else None,
        "rows": rows,
    }


def _carried(obj: Object, include: str) -> Any:
    match include:
        case "" | "Metadata":
            return partial_metadata(obj)
        case "Object":
            return obj
        case "None":
            return None
        case _:
            raise bad_request(
                f"invalid includeObject {include!r}: must be Metadata, Object or None"
            )


def partial_metadata(obj: Object) -> Object:
    """An object without anything but its metadata."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj["metadata"],
    }
