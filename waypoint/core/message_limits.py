"""How large messages may be: Envoy's limits, with Envoy's names and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_INTERIM: Final = 100
"""1xx responses in front of one response (our own choice)."""


@dataclass(slots=True)
class MessageLimits:
    """Of this process; set once, before its first connection."""

    head_bytes: int = 60 * 1024
    """A head, of a request (``max_request_headers_kb``) or of a response."""
    fields: int = 100
    """Fields of a head or of trailers (``max_headers_count``)."""
    retry_bytes: int = 1 << 20
    """A request's body that can be sent again (``per_connection_buffer_limit_bytes``)."""


LIMITS = MessageLimits()


def set_limits(*, headers_kb: int, headers_count: int, buffer_bytes: int) -> None:
    """Take over what is configured."""
    LIMITS.head_bytes = headers_kb * 1024
    LIMITS.fields = headers_count
    LIMITS.retry_bytes = buffer_bytes
