"""Bytes of one relayed connection, counted while they move."""

from __future__ import annotations


class Counters:
    """Plain ints, read at any time.

    ``sent``: taken from the application's socket (the first one of a splice) and passed on;
    ``received``: written into it.
    """

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
