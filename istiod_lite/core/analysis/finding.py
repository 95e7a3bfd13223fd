"""One thing that an analyzer has to say: about which object, how bad, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

import msgspec

from istiod_lite.core.facts import ObjectRef

_KEY: Final = re.compile(r"\[([^\[\]]*[^\[\]0-9][^\[\]]*)\]")
"""A mapping's key in brackets, as validation writes it for maps; numbers are list positions."""


class Severity(IntEnum):
    """Ascending, so that they can be compared with a threshold."""

    INFO = 1
    WARNING = 2
    ERROR = 3

    @property
    def word(self) -> str:
        """As istioctl spells it: ``Info``, ``Warning``, ``Error``."""
        return self.name.capitalize()

    @classmethod
    def named(cls, word: str) -> Severity:
        """The other way round. Raises KeyError."""
        return cls[word.upper()]


class Origin(msgspec.Struct, frozen=True):
    """Where an object was written: a file, and the line of each of its fields by path."""

    file: str
    lines: Mapping[str, int]

    def line(self, field: str) -> int:
        """The line of a field; of the nearest one around it where it is not written itself."""
        path = _KEY.sub(r".\1", field)
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get("", 0)


class Code(msgspec.Struct, frozen=True):
    """A kind of finding. ``id`` is Istio's where Istio has the same check, else ``AMBnnnn``."""

    id: str
    name: str
    severity: Severity
    meaning: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """``field`` is a path such as ``spec.rules[0].from``; empty for the object as a whole."""

    code: Code
    severity: Severity
    ref: ObjectRef
    message: str
    remedy: str = ""
    field: str = ""
    file: str = ""
    line: int = 0

    @property
    def order(self) -> tuple[int, str, str, str, str, str]:
        """The worst first, then by object."""
        key = self.ref.key
        place = (self.ref.kind, key.namespace, key.name)
        return (-self.severity, *place, self.code.id, self.message)
