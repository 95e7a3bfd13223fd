"""Request bodies in Kubernetes' protobuf form, as newer kubectl sends them for built-in kinds.

Only reading: every client that sends protobuf also accepts JSON. What Go writes although it is
unset (empty strings, zero numbers, false) is left out here, as JSON leaves it out.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from ambientctl.local.apiserver.core.builtin_types import Field, Message, message, message_name
from ambientctl.local.apiserver.core.status import Object, bad_request

PROTOBUF: Final = "application/vnd.kubernetes.protobuf"

_MAGIC: Final = b"k8s\x00"
_DEPTH_MAX: Final = 100
"""Messages inside messages; the deepest built-in kind needs fewer than twenty."""
_MEANT_WHEN_ZERO: Final = frozenset(
    {
        "replicas",
        "gracePeriodSeconds",
        "terminationGracePeriodSeconds",
        "revisionHistoryLimit",
        "automountServiceAccountToken",
        "enableServiceLinks",
        "allocateLoadBalancerNodePorts",
        "orphanDependents",
    }
)
"""Optional fields whose zero is an answer; protobuf cannot tell the two kinds apart."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _BrokenError(Exception):
    """Bytes that are no such message."""


_UNREADABLE: Final = (_BrokenError, ValueError, OverflowError, OSError, msgspec.DecodeError)
"""What broken bytes lead to: bad UTF-8, times outside the calendar, bad JSON inside."""


def decode(body: bytes) -> Object:
    """The object inside the envelope; raises a 400 for bytes that cannot be read."""
    if not body.startswith(_MAGIC):
        raise bad_request(
            "the body of the request is not Kubernetes protobuf: the magic is missing"
        )
    try:
        return _decode_envelope(body[len(_MAGIC) :])
    except _UNREADABLE as error:
        raise bad_request(f"the body of the request is not valid protobuf: {error}") from None


def _decode_envelope(body: bytes) -> Object:
    """runtime.Unknown: typeMeta = 1 {apiVersion = 1, kind = 2}, raw = 2."""
    fields = dict(_fields(body))
    names = {number: _text(value) for number, value in _fields(_raw(fields.get(1, b"")))}
    api_version, kind = names.get(1, ""), names.get(2, "")
    group = "meta.k8s.io" if kind == "DeleteOptions" else api_version.rpartition("/")[0]
    name = message_name(group, kind)
    if name is None:
        raise bad_request(f'no protobuf form is known for kind "{kind}" in version "{api_version}"')
    found = _decode(message(name) or {}, _raw(fields.get(2, b"")), _DEPTH_MAX)
    return {**found, "apiVersion": api_version, "kind": kind}


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (number, value) pairs of a message; raises for bytes that are none."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
                yield tag >> 3, value
            case 2:
                length, position = _varint(data, position)
                end = position + length
                if end > len(data):
                    raise _BrokenError("a field is longer than its message")
                yield tag >> 3, data[position:end]
                position = end
            case 1 | 5 as wire:
                end = position + (8 if wire == _FIXED64 else 4)
                yield tag >> 3, data[position:end]
                position = end
            case wire:
                raise _BrokenError(f"wire type {wire} is not used by Kubernetes")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of at most ten bytes and the position behind it."""
    result = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise _BrokenError("a number does not end")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def _raw(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _BrokenError("a number stands where a message is expected")
    return value


def _text(value: int | bytes) -> str:
    return _raw(value).decode()


def _decode(described: Message, data: bytes, depth: int) -> Object:
    """A message as JSON would show it."""
    if depth == 0:
        raise _BrokenError("messages are nested too deeply")
    by_number = {field.number: (name, field) for name, field in described.items()}
    found: Object = {}
    for number, value in _fields(data):
        if number not in by_number:
            continue  # a field of a newer release: kubectl writes none that it was not told to
        name, field = by_number[number]
        match field.shape:
            case "inline:":
                found |= _decode(message(field.type) or {}, _raw(value), depth - 1)
            case "[]":
                found.setdefault(name, []).append(_value(field, value, depth))
            case "map:":
                entry = dict(_fields(_raw(value)))
                found.setdefault(name, {})[_text(entry.get(1, b""))] = _value(
                    field, entry.get(2, b""), depth
                )
            case _:
                decoded = _value(field, value, depth)
                if decoded not in (None, "", 0) or name in _MEANT_WHEN_ZERO:
                    found[name] = decoded
    return found


def _value(field: Field, value: int | bytes, depth: int) -> Any:
    """One value of a field that is no inlined message."""
    described = message(field.type)
    if field.type == "authentication.ExtraValue":
        return [_text(item) for _, item in _fields(_raw(value))]
    if described is not None:
        return _decode(described, _raw(value), depth - 1)
    match field.type:
        case "string":
            return _text(value)
        case "bool":
            return bool(value)
        case "int32" | "int64":
            if not isinstance(value, int):
                raise _BrokenError("bytes stand where a number is expected")
            return value - (1 << 64) if value >> 63 else value
        case "bytes":
            return base64.b64encode(_raw(value)).decode()
        case "time":
            return _time(_raw(value))
        case _:
            return _special(field.type, _raw(value))


def _time(data: bytes) -> str | None:
    """Seconds since 1970 as RFC 3339; None for the zero time, an empty message."""
    parts = dict(_fields(data))
    seconds = parts.get(1, 0)
    if not isinstance(seconds, int) or not seconds:
        return None
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _special(kind: str, data: bytes) -> Any:
    """The types that protobuf wraps and JSON does not."""
    parts = dict(_fields(data))
    match kind:
        case "quantity":
            return _text(parts.get(1, b""))
        case "intOrString":  # type = 1 (0: number, 1: text), intVal = 2, strVal = 3
            return _text(parts.get(3, b"")) if parts.get(1) else parts.get(2, 0)
        case "raw" | "fields":
            return msgspec.json.decode(_raw(parts.get(1, b"null")))
        case _:
            raise _BrokenError(f"unknown type {kind}")
