"""Header lists to HPACK blocks (RFC 7541), without a dynamic table and without Huffman codes.

Every field is a static index or a literal that is not indexed, so encoding keeps no state, cannot
leak a secret through a shared table, and costs a fraction of a compressing encoder's time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, cast

from hpack.table import HeaderTable

from waypoint.core.http1 import BadMessageError

_NEVER_INDEXED: Final = frozenset(("authorization", "cookie", "set-cookie", "proxy-authorization"))
"""Fields that the next hop must not put into a table either (RFC 7541, section 7.1.3)."""
_CACHED_NAMES: Final = 1024

NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
BAD_VALUE: Final = re.compile(r"[\0\r\n]|^[ \t]|[ \t]$")
"""What a value must not have (RFC 9113, section 8.2.1)."""

_INDEXED: dict[tuple[str, str], bytes] = {}
_NAME_INDEX: dict[str, int] = {}
for _index, (_name, _value) in enumerate(HeaderTable.STATIC_TABLE, 1):
    _INDEXED.setdefault((_name.decode(), _value.decode()), bytes((0x80 | _index,)))
    _NAME_INDEX.setdefault(_name.decode(), _index)
_SHORT: Final = tuple(bytes((size,)) for size in range(127))
_prefixes: dict[str, bytes] = {}
_KNOWN_FIELDS: Final = 4096
_LONGEST_KNOWN: Final = 96
_known = dict(_INDEXED)


class UnsendableError(BadMessageError):
    """A field that HTTP forbids; filters may have made it."""

    def __init__(self) -> None:
        super().__init__(500, "invalid_header_value")


def encode(fields: Sequence[tuple[str, str]]) -> bytes:
    """The block for a header list; text is Latin-1, as it came. Raises UnsendableError."""
    parts = list(map(_known.get, fields))
    if None in parts:
        for at, part in enumerate(parts):
            if part is None:
                parts[at] = _field(fields[at])
    return b"".join(cast(list[bytes], parts))


def _field(field: tuple[str, str]) -> bytes:
    """One literal field; most come again and again."""
    name, value = field
    if BAD_VALUE.search(value) or (name[:1] != ":" and not NAME.fullmatch(name)):
        raise UnsendableError
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError:
        raise UnsendableError from None
    size = len(raw)
    prefix = _prefixes.get(name) or _prefix(name)
    made = prefix + (_SHORT[size] if size < 127 else _integer(size, 7, 0)) + raw
    if size <= _LONGEST_KNOWN and name not in _NEVER_INDEXED:
        if len(_known) >= _KNOWN_FIELDS:
            _known.clear()
            _known.update(_INDEXED)
        _known[field] = made
    return made


def _prefix(name: str) -> bytes:
    """The beginning of a literal field: its form and its name."""
    form = 0x10 if name in _NEVER_INDEXED else 0x00
    index = _NAME_INDEX.get(name)
    if index is not None:
        made = _integer(index, 4, form)
    else:
        raw = name.encode("latin-1")
        made = bytes((form,)) + _integer(len(raw), 7, 0) + raw
    if len(_prefixes) >= _CACHED_NAMES:
        _prefixes.clear()
    _prefixes[name] = made
    return made


def _integer(value: int, bits: int, form: int) -> bytes:
    """An integer with a prefix of ``bits`` bits (RFC 7541, section 5.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((form | value,))
    out = bytearray((form | limit,))
    value -= limit
    while value >= 128:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)
