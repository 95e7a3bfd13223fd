"""From an HTTP request to what it asks for, and the shape of every answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import yaml

from ambientctl.local.apiserver.core.protobuf import PROTOBUF, decode
from ambientctl.local.apiserver.core.status import (
    Object,
    bad_request,
    path_not_found,
    unsupported_media_type,
)

BODY_MAX_BYTES: Final = 3 * 1024 * 1024  # kube-apiserver's limit for a resource request
JSON: Final = "application/json"
YAML: Final = "application/yaml"


class Request(NamedTuple):
    """One HTTP request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    warnings: list[str]
    """What the client should be told besides the answer, good or bad."""
    pairs: tuple[tuple[str, str], ...] = ()
    """The query with parameters that come several times."""

    def flag(self, name: str) -> bool:
        """A boolean query parameter; present without a value counts as true."""
        return self.query.get(name, "false").lower() in {"", "1", "t", "true"}

    def number(self, name: str) -> int | None:
        """A whole number from the query; raises a 400 that names the parameter."""
        text = self.query.get(name, "")
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise bad_request(
                f"invalid value {text!r} for parameter {name}: must be a number"
            ) from None

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def read_request(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Request:
    """Split a request target; the last of several equal parameters counts."""
    parts = urlsplit(target)
    pairs = tuple(parse_qsl(parts.query, keep_blank_values=True))
    return Request(method, parts.path, dict(pairs), headers, body, [], pairs)


class Response(NamedTuple):
    """One complete answer."""

    status: int
    body: bytes
    media_type: str = JSON
    warnings: tuple[str, ...] = ()


def json_response(status: int, obj: Any, warnings: tuple[str, ...] = ()) -> Response:
    """An object as an answer."""
    return Response(status, msgspec.json.encode(obj) + b"\n", JSON, warnings)


class Target(NamedTuple):
    """What a resource path names. ``name`` is empty for a collection."""

    group: str
    version: str
    plural: str
    namespace: str
    name: str
    subresource: str


def parse_target(path: str) -> Target:
    """Read ``/api/v1/...`` or ``/apis/<group>/<version>/...``; raises a 404 for anything else."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    match parts:
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            raise path_not_found()
    namespace = ""
    match rest:
        # /namespaces/x and /namespaces/x/status are the namespace itself, not things inside it.
        case ["namespaces", _] | ["namespaces", _, "status" | "finalize"]:
            pass
        case ["namespaces", namespace, *inside]:
            rest = inside
        case _:
            pass
    if not rest or len(rest) > 3 or not all(rest):
        raise path_not_found()
    plural, name, subresource = [*rest, "", ""][:3]
    return Target(group, version, plural, namespace, name, subresource)


class _PlainLoader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: a date is just a string."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str | bytes) -> list[Any]:
    """Every non-empty document; raises a 400 with the line of the mistake."""
    try:
        documents = [_as_json(doc) for doc in yaml.load_all(text, _PlainLoader)]
        return [doc for doc in documents if doc is not None]
    except RecursionError:
        raise bad_request("error parsing YAML: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise bad_request(f"error parsing YAML: {' '.join(str(error).split())}") from None


def _as_json(value: Any) -> Any:
    """YAML may hold more than JSON: other keys become text, other values are refused."""
    match value:
        case dict():
            return {_key(key): _as_json(inner) for key, inner in value.items()}
        case list():
            return [_as_json(item) for item in value]
        case None | str() | bool() | int() | float():
            return value
        case _:
            raise ValueError(f"a value of type {type(value).__name__} has no place in JSON")


def _key(key: Any) -> str:
    return key if isinstance(key, str) else msgspec.json.encode(key).decode()


def _refuse_aliases(text: bytes) -> None:
    """A few aliases of aliases would unfold to gigabytes of JSON."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _PlainLoader)):
            raise bad_request("error parsing YAML: aliases are not accepted in a request")
    except yaml.YAMLError:
        return  # load_yaml says what is wrong


def read_body(request: Request, accepted: tuple[str, ...] = (JSON, YAML, PROTOBUF)) -> Any:
    """The decoded body, None when there is none; raises 400 or 415."""
    if not request.body:
        return None
    media_type = request.media_type or JSON
    if media_type not in accepted:
        raise unsupported_media_type(media_type, accepted)
    if media_type == PROTOBUF:
        return decode(request.body)
    if media_type.endswith("yaml") and not request.body.lstrip().startswith(b"{"):
        _refuse_aliases(request.body)
        documents = load_yaml(request.body)
        if len(documents) != 1:
            raise bad_request("the body of the request must hold exactly one YAML document")
        return documents[0]
    try:
        return msgspec.json.decode(request.body)
    except RecursionError:
        raise bad_request("the body of the request is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the body of the request is not valid JSON: {error}") from None


def accepts(request: Request, kind: str, group: str = "meta.k8s.io") -> bool:
    """Does the client ask for the object dressed as ``kind`` (Table, PartialObjectMetadata)?"""
    for offer in request.headers.get("accept", "").split(","):
        fields = [field.strip() for field in offer.split(";")]
        if f"as={kind}" in fields and f"g={group}" in fields:
            return True
    return False


def list_object(api_version: str, kind: str, items: list[Object], revision: int) -> Object:
    """A list as the API returns it."""
    metadata: Object = {"resourceVersion": str(revision)}
    return {"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items}
