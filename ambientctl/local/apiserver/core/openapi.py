"""As much OpenAPI as clients need: which operations take which parameters.

``kubectl`` looks here before it writes: does the server check fields (``fieldValidation``), does
it know dry runs (``dryRun``)? Version 2 also goes out in protobuf, which every kubectl asks for.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from ambientctl.local.apiserver.core.discovery import GIT_VERSION
from ambientctl.local.apiserver.core.kinds import Catalogue, Kind
from ambientctl.local.apiserver.core.status import Object, path_not_found

V2_PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

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
            text = msgspec.json.encode(v3(catalogue, group, version))
            digest = hashlib.sha256(text).hexdigest()[:32].upper()
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def v3(catalogue: Catalogue, group: str, version: str) -> Object:
    """``/openapi/v3/apis/<group>/<version>``; raises a 404."""
    kinds = [k for k in catalogue.all() if (k.group, k.version) == (group, version)]
    if not kinds:
        raise path_not_found()
    paths = {_path(kind): _v3_item(kind) for kind in kinds if "patch" in kind.verbs}
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths, "components": {"schemas": {}}}


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
