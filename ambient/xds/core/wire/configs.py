"""Kubernetes objects for waypoints (ambient.config.v1), both directions."""

from __future__ import annotations

from typing import Any

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.pb import config_pb2 as cpb
from ambient.xds.core.wire.parts import BadResource, parse, text


def read_config(raw: bytes) -> ConfigObject:
    """Raises BadResource."""
    message = parse(cpb.Object, raw)
    try:
        decoded = msgspec.json.decode(message.json, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as err:  # ValueError: not UTF-8
        raise BadResource("json", f"{len(message.json)} bytes", str(err)) from None
    return ConfigObject(
        api_version=text("api_version", message.api_version),
        kind=text("kind", message.kind),
        namespace=text("namespace", message.namespace, required=False),
        name=text("name", message.name),
        generation=message.generation,
        object=decoded,
    )


def put_config(value: ConfigObject) -> cpb.Object:
    """Keys are sorted, so that equal objects give equal bytes."""
    return cpb.Object(
        api_version=value.api_version,
        kind=value.kind,
        namespace=value.namespace,
        name=value.name,
        generation=value.generation,
        json=msgspec.json.encode(value.object, order="deterministic"),
    )
