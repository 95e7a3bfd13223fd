"""Any packet as a ZDS message, in both directions."""

from __future__ import annotations

from contextlib import suppress

from ambient.net.core.wire import (
    MAX_MESSAGE_BYTES,
    Ack,
    Add,
    Del,
    Hello,
    Keep,
    SnapshotSent,
    WireError,
    decode_ack,
    decode_hello,
    decode_request,
    encode,
)

SEEDS = [
    encode(message)
    for message in (
        Hello(1),
        Add("uid", "web", "shop", "web"),
        Keep("uid"),
        Del("uid"),
        SnapshotSent(),
        Ack(""),
        Ack("no such pod"),
    )
]


def run(data):
    """What can be read can be written and read again, and means the same."""
    for decode in (decode_hello, decode_ack, decode_request):
        try:
            message = decode(data)
        except WireError:
            continue
        with suppress(WireError):  # in canonical form it may be too long
            raw = encode(message)
            assert len(raw) <= MAX_MESSAGE_BYTES
            if not isinstance(message, Ack):  # whose text is cut
                assert decode(raw) == message
