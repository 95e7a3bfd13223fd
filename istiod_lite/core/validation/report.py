"""Reading an object field by field, noting what is wrong with it and where."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from ipaddress import ip_address, ip_network
from typing import Any, Final, NamedTuple

import re2

MAX_PROBLEMS: Final = 20
"""One answer need not list a thousand mistakes of a generated file."""
SHOWN_CHARS: Final = 60
_DNS_NAME: Final = re.compile(r"^(\*\.)?([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?\.)*[a-z0-9_]"
                              r"([-a-z0-9_]{0,61}[a-z0-9_])?$", re.IGNORECASE)  # fmt: skip
_DURATION: Final = re.compile(r"^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+$")
MAX_DNS_NAME: Final = 253
"""RFC 1035, section 2.3.4."""


class Problem(NamedTuple):
    """One mistake: the field, what is wrong with it, what to write instead."""

    field: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.text}" + (f" ({self.remedy})" if self.remedy else "")


class Report:
    """``problems`` refuse an object, ``warnings`` are shown to whoever applies it."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []


class Field:
    """A place in an object. Reading never raises: what has the wrong type is noted and empty."""

    def __init__(self, value: Any, path: str, report: Report) -> None:
        self.value = value
        self.path = path
        self.report = report

    @property
    def given(self) -> bool:
        """Whether it says anything."""
        return self.value not in (None, "", [], {})

    @property
    def present(self) -> bool:
        """Whether it is written at all; an empty selector differs from none."""
        return self.value is not None

    def wrong(self, text: str, remedy: str = "") -> None:
        """Note a mistake here."""
        if len(self.report.problems) < MAX_PROBLEMS:
            self.report.problems.append(Problem(self.path, text, remedy))

    def warn(self, text: str, remedy: str = "") -> None:
        """Note what its author should know."""
        if len(self.report.warnings) < MAX_PROBLEMS:
            self.report.warnings.append(Problem(self.path, text, remedy))

    def __getitem__(self, name: str) -> Field:
        path = f"{self.path}.{name}" if self.path else name
        return Field(self._mapping().get(name), path, self.report)

    def entries(self) -> Iterator[tuple[str, Field]]:
        """Of a mapping."""
        for name, value in self._mapping().items():
            yield str(name), Field(value, f"{self.path}[{name}]", self.report)

    def items(self) -> list[Field]:
        """Of a list."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            self.wrong(f"is {_shown(self.value)}, not a list")
            return []
        return [Field(one, f"{self.path}[{i}]", self.report) for i, one in enumerate(self.value)]

    def text(self) -> str:
        """Its text; empty if it has none."""
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            self.wrong(f"is {_shown(self.value)}, not text", "put it in quotes")
            return ""
        return self.value

    def texts(self) -> list[str]:
        """The texts of a list."""
        return [text for one in self.items() if (text := one.text())]

    def known(self, allowed: Collection[str]) -> None:
        """Other fields are mistakes: nobody would read them."""
        for name in self._mapping():
            if name not in allowed:
                Field(None, f"{self.path}.{name}" if self.path else str(name), self.report).wrong(
                    "there is no such field", f"known here: {', '.join(sorted(allowed))}"
                )

    def one_of(self, allowed: Collection[str], *, required: bool = False) -> str:
        """A text from a list; empty if it is none of them."""
        text = self.text()
        if (text and text not in allowed) or (required and not text):
            said = f"is {_shown(text)}" if text else "is missing"
            self.wrong(said, f"use one of {', '.join(sorted(allowed))}")
            return ""
        return text

    def required(self, remedy: str) -> bool:
        """Whether it is there; a mistake if not."""
        if not self.given:
            self.wrong("is missing", remedy)
        return self.given

    def port(self) -> None:
        """A port number, also one written as text."""
        number = self.value
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 65535:
            self.wrong(f"{_shown(self.value)} is no port", "use a number from 1 to 65535")

    def address(self) -> None:
        """An IP address or a range of them."""
        text = self.text()
        try:
            ip_network(text, strict=False)
        except ValueError:
            self.wrong(f"{_shown(text)} is no IP address", "use 10.0.0.1 or a range, 10.0.0.0/8")

    def is_ip(self) -> bool:
        """Whether it is a single IP address."""
        try:
            ip_address(self.value)
        except ValueError:
            return False
        return True

    def host(self, *, wildcard: bool = True) -> None:
        """A DNS name; ``*.`` may stand for its first part."""
        text = self.text()
        wild = text.startswith("*.")
        if len(text) > MAX_DNS_NAME or not _DNS_NAME.match(text) or (wild and not wildcard):
            self.wrong(f"{_shown(text)} is no host name", "use a DNS name such as api.example.com")

    def duration(self) -> None:
        """A span of time such as ``1.5s``."""
        if self.present and not _DURATION.match(self.text()):
            self.wrong(f"{_shown(self.value)} is no duration", "use 500ms, 5s or 1m30s")

    def integer(self, least: int, most: int) -> None:
        """A whole number in bounds."""
        if self.present and (
            isinstance(self.value, bool)
            or not isinstance(self.value, int)
            or not least <= self.value <= most
        ):
            self.wrong(f"is {_shown(self.value)}", f"use a whole number from {least} to {most}")

    def pattern(self) -> None:
        """A regular expression of RE2, as waypoints compile it."""
        options = re2.Options()
        options.log_errors = False
        try:
            re2.compile(self.text(), options)
        except re2.error as error:
            words = error.args[0] if error.args else error
            told = words.decode() if isinstance(words, bytes) else words
            self.wrong(f"is no regular expression of RE2: {told}")

    def selector(self) -> None:
        """Labels that choose workloads."""
        self.known({"matchLabels"})
        for name, value in self["matchLabels"].entries():
            if not name:
                self["matchLabels"].wrong("has a label without a name")
            if "*" in name or "*" in value.text():
                value.wrong("wildcards are not understood in selectors", "write the labels out")

    def _mapping(self) -> dict[Any, Any]:
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            self.wrong(f"is {_shown(self.value)}, not a mapping")
            return {}
        return self.value


def _shown(value: object) -> str:
    """Short enough for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"
