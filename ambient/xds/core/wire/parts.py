"""Small parts of resources, read with their limits; what is wrong is named, never repaired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from ambient.api.address import IPAddress, canonical
from ambient.api.policy import IPNetwork

MAX_RESOURCE_BYTES: Final = 4 << 20
"""etcd refuses objects above 1.5 MiB, so nothing real comes near."""
MAX_NAME_BYTES: Final = 2048
"""Any single string; names in Kubernetes end at 253."""
MAX_ITEMS: Final = 10_000
"""Any repeated field."""
MAX_PORT: Final = 65535

E = TypeVar("E", bound=IntEnum)
M = TypeVar("M", bound=Message)


class BadResource(Exception):  # noqa: N818 - the noun that the NACK is made of
    """A resource that cannot be used: which field, what it says, why that is wrong.

    ``name`` is filled in by whoever knows under which name the resource came.
    """

    def __init__(self, field: str, value: object, reason: str, *, name: str = "") -> None:
        super().__init__(field, value, reason)
        self.field = field
        self.value = value
        self.reason = reason
        self.name = name

    def __str__(self) -> str:
        shown = repr(self.value)
        shown = shown if len(shown) <= 100 else shown[:97] + "..."
        prefix = f"{self.name}: " if self.name else ""
        text = f"{prefix}{self.field} {shown}: {self.reason}"
        # Names are the sender's; one of them must not forge a log line or end a NACK's text.
        return "".join(char if char.isprintable() else "?" for char in text)


def parse(kind: type[M], raw: bytes) -> M:
    """A message. Raises BadResource where the bytes are none of this kind."""
    message = kind()
    try:
        message.ParseFromString(raw)
    except (DecodeError, RecursionError) as err:
        raise BadResource(kind.DESCRIPTOR.name, f"{len(raw)} bytes", f"malformed: {err}") from None
    return message


def text(field: str, value: str, *, required: bool = True) -> str:
    """A string of a sane length; not empty where ``required``."""
    if len(value) > MAX_NAME_BYTES:
        raise BadResource(field, value, f"longer than {MAX_NAME_BYTES}")
    if required and not value:
        raise BadResource(field, value, "must not be empty")
    return value


def each(field: str, values: Sequence[Any], read: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    """Every item by ``read(name of the item, item)``; a bad one refuses the whole."""
    if len(values) > MAX_ITEMS:
        raise BadResource(field, f"{len(values)} items", f"more than {MAX_ITEMS}")
    return tuple(read(f"{field}[{index}]", value) for index, value in enumerate(values))


def known(kind: type[E], field: str, value: int) -> E:
    """An enum whose every number we must understand."""
    try:
        return kind(value)
    except ValueError:
        raise BadResource(field, value, f"not a known {kind.__name__}") from None


def enum_or(kind: type[E], value: int, fallback: E) -> E:
    """An enum that only describes; unknown numbers read as ``fallback``."""
    try:
        return kind(value)
    except ValueError:
        return fallback


def address(field: str, raw: bytes) -> IPAddress:
    """An IP from its 4 or 16 bytes."""
    match len(raw):
        case 4:
            return IPv4Address(raw)
        case 16:
            return canonical(IPv6Address(raw))
        case _:
            raise BadResource(field, raw.hex(), "an address has 4 or 16 bytes")


def cidr(field: str, raw: bytes, length: int) -> IPNetwork:
    """A range; IPv4-mapped IPv6 ranges become the IPv4 ranges that connections will show."""
    ip = address(field, raw)
    bits = length - 96 if ip.version == 4 and len(raw) == 16 else length
    try:
        return ip_network((ip.packed, bits), strict=False)
    except ValueError:
        raise BadResource(field, f"{ip}/{bits}", "not a prefix length of this address") from None


def port(field: str, value: int, *, lowest: int = 1) -> int:
    """A port; ``lowest`` 0 where 0 has a meaning of its own."""
    if not lowest <= value <= MAX_PORT:
        raise BadResource(field, value, f"not a port ({lowest} to {MAX_PORT})")
    return value
