"""Messages of clients that are no messages: kept as such, so that the client can be named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError


class Unreadable:
    """What came instead of a message."""

    def __init__(self, size: int) -> None:
        self.size = size


class UnreadableError(Exception):
    """A client sent what is no message of the protocol."""


def readable(message: Any) -> Callable[[bytes], Any]:
    """A deserializer that never fails: what is no ``message`` becomes Unreadable."""

    def read(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError:
            return Unreadable(len(data))

    return read


def checked(messages: Iterator[Any]) -> Iterator[Any]:
    """The messages; raises UnreadableError at the first that is none."""
    for message in messages:
        if isinstance(message, Unreadable):
            raise UnreadableError(f"{message.size} bytes that are no request")
        yield message
