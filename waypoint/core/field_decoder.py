"""HPACK blocks to header lists (RFC 7541).

Texts are decoded once: what a peer repeats is found by its bytes. (The hpack library was a sixth
of the time of a gRPC call; the Huffman table is still its.)
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeVar

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from ambient.hbone.core.errors import CompressionError, FloodError

Field = tuple[str, str]
T = TypeVar("T")

TABLE_BYTES: Final = 4096
"""Size of the dynamic table: SETTINGS_HEADER_TABLE_SIZE's default, which we never change."""
OVERHEAD: Final = 32
"""What each field counts beside its text (section 4.1)."""
_LONGEST_INTEGER: Final = 5
"""Bytes behind the prefix: more are a number that no length can be."""
_KNOWN_TEXTS: Final = 4096
_SEEN_BLOCKS: Final = 64
_LONGEST_KNOWN: Final = 256

_STATIC: Final = (
    ("", ""),
    *((name.decode(), value.decode()) for name, value in HeaderTable.STATIC_TABLE),
)
_FIRST_DYNAMIC: Final = len(_STATIC)
_known: dict[bytes, str] = {}


def _keep(known: dict[bytes, T], block: bytes, meaning: T) -> None:
    if len(known) >= _SEEN_BLOCKS:
        known.clear()
    known[block] = meaning


class FieldDecoder:
    """One direction of a connection. Every block has to be decoded, in order, wanted or not."""

    def __init__(self, max_list: int) -> None:
        """``max_list`` bounds a decoded list, counted as SETTINGS_MAX_HEADER_LIST_SIZE is."""
        self._max_list = max_list
        self._table: deque[Field] = deque()
        self._size = 0
        self._limit = TABLE_BYTES
        self._block = b""
        self._at = 0
        self._looked = False
        """The block under way means something else with another table."""
        self._added: list[Field] = []
        """What it put into the table."""
        self._seen: dict[bytes, list[Field]] = {}
        """What blocks mean as long as the table stays as it is."""
        self._always: dict[bytes, tuple[list[Field], list[Field]]] = {}
        """What blocks mean that do not look at the table, and what they put into it."""
        self._late: deque[list[Field]] = deque(maxlen=TABLE_BYTES // OVERHEAD)
        """What recalled blocks put into the table since somebody looked: older ones than these
        have no room there."""

    def decode(self, block: bytes) -> list[Field]:
        """The list, text as Latin-1; it is not to be changed. Raises CompressionError and
        FloodError."""
        always = self._always.get(block)
        if always is not None:
            if always[1]:
                self._late.append(always[1])
            return always[0]
        while self._late:
            self._remember(self._late.popleft())
        seen = self._seen.get(block)
        if seen is not None:
            return seen
        self._looked, self._added = False, []
        found = self._decode(block)
        if len(block) <= _LONGEST_KNOWN:
            if not self._looked:
                _keep(self._always, block, (found, self._added))
            elif not self._added:
                _keep(self._seen, block, found)
        return found

    def _decode(self, block: bytes) -> list[Field]:
        self._block, self._at = block, 0
        found: list[Field] = []
        total = 0
        size = len(block)
        try:
            while self._at < size:
                first = block[self._at]
                if first & 0x80:
                    field = self._lookup(self._integer(0x7F))
                elif first & 0x40:
                    field = self._literal(0x3F)
                    self._added.append(field)
                    self._remember([field])
                elif first & 0x20:
                    self._resize(self._integer(0x1F), first=not found)
                    continue
                else:
                    field = self._literal(0x0F)
                total += len(field[0]) + len(field[1]) + OVERHEAD
                if total > self._max_list:
                    raise FloodError("a header list over the limit")
                found.append(field)
        except IndexError:
            raise CompressionError("a header block that breaks off") from None
        return found

    def _integer(self, mask: int) -> int:
        """An integer whose prefix has the bits of ``mask`` (section 5.1)."""
        block = self._block
        value = block[self._at] & mask
        self._at += 1
        if value < mask:
            return value
        shift = 0
        for _ in range(_LONGEST_INTEGER):
            byte = block[self._at]
            self._at += 1
            value += (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise CompressionError("a number without an end")

    def _text(self) -> str:
        """A string (section 5.2)."""
        huffman = self._block[self._at] & 0x80
        size = self._integer(0x7F)
        raw = self._block[self._at : self._at + size]
        if len(raw) < size:
            raise CompressionError("a string that breaks off")
        self._at += size
        if not huffman:
            return raw.decode("latin-1")
        text = _known.get(raw)
        if text is None:
            try:
                text = decode_huffman(raw).decode("latin-1")
            except HPACKError as error:
                raise CompressionError(f"a bad Huffman code: {error}") from None
            if size <= _LONGEST_KNOWN:
                if len(_known) >= _KNOWN_TEXTS:
                    _known.clear()
                _known[raw] = text
        return text

    def _literal(self, mask: int) -> Field:
        index = self._integer(mask)
        name = self._lookup(index)[0] if index else self._text()
        return name, self._text()

    def _lookup(self, index: int) -> Field:
        if 0 < index < _FIRST_DYNAMIC:
            return _STATIC[index]
        index -= _FIRST_DYNAMIC
        self._looked = True
        if not 0 <= index < len(self._table):
            raise CompressionError("an index that is not in the table")
        return self._table[index]

    def _remember(self, fields: list[Field]) -> None:
        """Put fields into the table, the last one first in it. What is too old goes."""
        self._table.extendleft(fields)
        for name, value in fields:
            self._size += len(name) + len(value) + OVERHEAD
        self._evict()

    def _resize(self, limit: int, *, first: bool) -> None:
        if limit > TABLE_BYTES or not first:
            raise CompressionError("a bad size of the dynamic table")
        self._limit = limit
        self._looked = True
        self._evict()

    def _evict(self) -> None:
        self._seen.clear()
        while self._size > self._limit:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + OVERHEAD
