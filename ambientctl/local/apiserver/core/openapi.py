"""As much OpenAPI as clients need: which operations take which parameters.

``kubectl`` looks here before it writes: does the server check fields (``fieldValidation``), does
it know dry runs (``dryRun``)? Version 2 also goes out in protobuf, which every kubectl asks for.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from ambientctl.local.apiserver.core.builtin_types import json_fields, message, message_name
from ambientctl.local.apiserver.core.discovery import GIT_VERSION
from ambientctl.local.apiserver.core.kinds import Catalogue, Kind
from ambientctl.local.apiserver.core.status import Object, path_not_found

V2_PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

_SCALARS: Final[dict[str, Object]] = {
    "string": {"type": "string"},
    "bytes": {"type": "string", "format": "byte"},
    "bool": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "double": {"type": "number", "format": "double"},
    "time": {"type": "string", "format": "date-time"},
    "quantity": {"type": "string"},
    "intOrString": {"type": "string", "format": "int-or-string"},
    "raw": {"type": "object"},
    "fields": {"type": "object"},
}
_WRITE_PARAMETERS: Final = ("dryRun", "fieldManager", "fieldValidation", "force")
_INFO: Final = {"title": "ambient local mesh", "version": GIT_VERSION}


def _path(kind: Kind) -> str:
    root = f"/apis/{kind.group}" if kind.group else "/api"
    middle = "/namespaces/{namespace}" if kind.namespaced else ""
    return f"{root}/{kind.version}{middle}/{kind.plural}/{{name}}"


def _gvk(kind: Kind) -> Object:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _group_path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def v3_index(catalogue: Catalogue) -> Object:
    """``/openapi/v3``: where each group version is described."""
    paths = {}
    for group, versions in catalogue.groups().items():
        for version in versions:
            path = _group_path(group, version)
            kinds = [
                kind for kind in catalogue.all() if (kind.group, kind.version) == (group, version)
            ]
            digest = hashlib.sha256(msgspec.json.encode(kinds)).hexdigest()[:32].upper()
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def v3(catalogue: Catalogue, group: str, version: str) -> Object:
    """``/openapi/v3/apis/<group>/<version>``; raises a 404."""
    kinds = [k for k in catalogue.all() if (k.group, k.version) == (group, version)]
    if not kinds:
        raise path_not_found()
    paths = {_path(kind): _v3_item(kind) for kind in kinds if "patch" in kind.verbs}
    schemas: Object = {}
    for kind in kinds:
        _add_kind(kind, schemas)
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths, "components": {"schemas": schemas}}


def _add_kind(kind: Kind, schemas: Object) -> None:
    """The schema of a kind, and of every message it is made of."""
    if kind.custom:
        name = ".".join((*reversed(kind.group.split(".")), kind.version, kind.kind))
        schema = dict(kind.schema or {})
    else:
        described = message_name(kind.group, kind.kind)
        if described is None:
            return
        name, schema = described, _message_schema(described, schemas)
    own = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    properties = {**own, **(schema.get("properties") or {})}
    if kind.custom:
        properties["metadata"] = _type_schema("meta.ObjectMeta", schemas)
    schemas[name] = {
        **schema,
        "properties": properties,
        "x-kubernetes-group-version-kind": [_gvk(kind)],
    }


def _message_schema(name: str, schemas: Object) -> Object:
    properties = {}
    for field, described in json_fields(name).items():
        inner = _type_schema(described.type, schemas)
        match described.shape:
            case "[]":
                inner = {"type": "array", "items": inner}
            case "map:":
                inner = {"type": "object", "additionalProperties": inner}
            case _:
                pass
        properties[field] = inner
    return {"type": "object", "properties": properties}


def _type_schema(name: str, schemas: Object) -> Object:
    if message(name) is None:
        return _SCALARS[name]
    if name not in schemas:
        schemas[name] = {}  # a message may contain itself
        schemas[name] = _message_schema(name, schemas)
    return {"$ref": f"#/components/schemas/{name}"}


def _v3_item(kind: Kind) -> Object:
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
        for name in _WRITE_PARAMETERS
    ]
    operation = {
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": _gvk(kind),
    }
    return {"patch": operation}


def v2(catalogue: Catalogue) -> Object:
    """``/openapi/v2`` as JSON."""
    paths = {}
    for kind in catalogue.all():
        if "patch" in kind.verbs:
            operation = {
                "parameters": [
                    {"name": name, "in": "query", "type": "string"} for name in _WRITE_PARAMETERS
                ],
                "responses": {"200": {"description": "OK"}},
                "x-kubernetes-group-version-kind": _gvk(kind),
            }
            paths[_path(kind)] = {"patch": operation}
    return {"swagger": "2.0", "info": _INFO, "paths": paths, "definitions": {}}


# The protobuf form. Field numbers: gnostic's openapiv2/OpenAPIv2.proto.


def v2_protobuf(catalogue: Catalogue) -> bytes:
    """``/openapi/v2`` as the protobuf document of gnostic."""
    info = _text(1, _INFO["title"]) + _text(2, _INFO["version"])
    paths = b"".join(
        _nested(2, _text(1, _path(kind)) + _nested(2, _nested(8, _operation(kind))))
        for kind in catalogue.all()
        if "patch" in kind.verbs
    )
    return _text(1, "2.0") + _nested(2, info) + _nested(8, paths)


def _operation(kind: Kind) -> bytes:
    parameters = b"".join(_nested(8, _query_parameter(name)) for name in _WRITE_PARAMETERS)
    gvk = "".join(f"{key}: {value}\n" for key, value in _gvk(kind).items() if value)
    extension = _text(1, "x-kubernetes-group-version-kind") + _nested(2, _text(2, gvk))
    return parameters + _nested(13, extension)


def _query_parameter(name: str) -> bytes:
    """ParametersItem { parameter { nonBodyParameter { query { in, name, type }}}}."""
    query = _text(2, "query") + _text(4, name) + _text(6, "string")
    return _nested(1, _nested(2, _nested(3, query)))


def _nested(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _text(field: int, text: str) -> bytes:
    return _nested(field, text.encode())


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
