"""What connects a worker with its supervisor."""

from __future__ import annotations

from typing import NamedTuple


class Channels(NamedTuple):
    """What a worker is started with: its number, and descriptors of two sockets."""

    number: int
    zds_fd: int
    """The supervisor speaks ZDS on it, as a node agent."""
    http_fd: int
    """The supervisor passes connections for our HTTP endpoint on it."""
