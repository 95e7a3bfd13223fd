"""The header blocks that we send: HPACK (RFC 7541) without its table and its Huffman code.

Of a CONNECT's few fields those worth a place in the table are short, and the others are new every
time. What indexing and Huffman coding save, some 100 bytes a connection, costs more processor time
than all the rest of the request, here and at the peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

PER_CONNECTION_HEADERS: Final = frozenset({"traceparent", "forwarded"})
"""New values on every stream: no intermediary may put them into a table either, where they would
push out the rest."""
_STATIC_NAMES: Final = {":authority": 1, ":method": 2, ":status": 8}
"""RFC 7541, appendix A."""
_NOT_INDEXED: Final = 0x00
_NEVER_INDEXED: Final = 0x10


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """A whole block; every character has to fit into one octet."""
    return b"".join(
        [
            _never_indexed(name, value) if name in PER_CONNECTION_HEADERS else _field(name, value)
            for name, value in fields
        ]
    )


@lru_cache(1024)
def _field(name: str, value: str) -> bytes:
    """A field that is likely to be sent again."""
    index = _STATIC_NAMES.get(name)
    if index is not None:
        return bytes((_NOT_INDEXED | index,)) + _string(value)
    return bytes((_NOT_INDEXED,)) + _string(name) + _string(value)


def _never_indexed(name: str, value: str) -> bytes:
    return bytes((_NEVER_INDEXED,)) + _string(name) + _string(value)


def _string(text: str) -> bytes:
    """A string literal (section 5.2): its length behind a 7 bit prefix, then its octets."""
    raw = text.encode("latin-1")
    size = len(raw)
    if size < 0x7F:
        return bytes((size,)) + raw
    size -= 0x7F
    head = bytearray((0x7F,))
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + raw
