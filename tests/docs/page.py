"""A page of the documentation, as the steps that its reader takes.

- A ``console`` block is commands (``$ ``) and what they print. A command goes on over lines that
  end with a backslash. Behind it ``# exit status 1`` says that it ends so, ``# fails`` that it
  fails, ``# until Ctrl-C`` that it goes on until the reader ends it.
- Any other block with a title (``yaml title="policy.yaml"``) is a file that the reader writes.
- A block below ``<!-- not run: REASON -->`` is not taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*) *(?:title=\"(?P<title>[^\"]+)\")?.*$")
NOT_RUN = re.compile(r"^ *<!-- not run: (?P<reason>.+) -->$")
STATUS = re.compile(r"# exit status (\d+)")
FAILS = "# fails"
ENDLESS = "# until Ctrl-C"
WILDCARD = re.compile(r"\s*(?:…|\.\.\.)\s*")


class File(NamedTuple):
    name: str
    text: str


class Command(NamedTuple):
    line: int
    text: str
    shown: tuple[str, ...]
    """What the page shows of its output."""

    def expects(self, status: int) -> bool:
        """Whether the page says that the command ends so."""
        if FAILS in self.text:
            return status != 0
        found = STATUS.search(self.text)
        return status == (int(found[1]) if found else 0)

    @property
    def endless(self) -> bool:
        return ENDLESS in self.text

    def missing(self, output: str) -> str | None:
        """The first shown line that the output does not have, in order; None where it has all."""
        lines = iter(output.splitlines())
        for line in self.shown:
            pattern = _pattern(line)
            if not any(pattern.search(_plain(one)) for one in lines):
                return line
        return None


class Skipped(NamedTuple):
    line: int
    reason: str


Step = File | Command | Skipped


class Block(NamedTuple):
    line: int
    language: str
    title: str | None
    lines: tuple[str, ...]
    not_run: str | None


def steps(path: Path) -> Iterator[Step]:
    """What the reader of this page does, in order."""
    for block in blocks(path.read_text()):
        if block.not_run is not None:
            yield Skipped(block.line, block.not_run)
        elif block.language == "console":
            yield from _commands(block)
        elif block.title is not None:
            yield File(block.title, "".join(f"{line}\n" for line in block.lines))


def blocks(text: str) -> Iterator[Block]:
    """All fenced blocks with the marker above them."""
    marker: str | None = None
    opened: tuple[int, re.Match[str]] | None = None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if opened is None:
            if found := FENCE.match(line):
                opened, inside = (number, found), []
            elif found := NOT_RUN.match(line):
                marker = found["reason"]
            elif line.strip():
                marker = None
            continue
        start, fence = opened
        if line.strip() == "```":
            yield Block(start, fence["language"], fence["title"], tuple(inside), marker)
            marker, opened = None, None
        else:
            inside.append(line.removeprefix(fence["indent"]))
    assert opened is None, f"the block of line {opened[0] if opened else 0} has no end"


def _commands(block: Block) -> Iterator[Command]:
    text, shown, begun = "", list[str](), 0
    for number, line in enumerate(block.lines, block.line + 1):
        if text.endswith("\\"):
            text += f"\n{line}"
        elif line.startswith("$ "):
            if text:
                yield Command(begun, text, tuple(shown))
            text, shown, begun = line[2:], [], number
        else:
            assert text, f"line {number}: output before the first command"
            shown.append(line)
    assert text, f"line {block.line}: a console block without a command"
    assert ENDLESS not in text or shown, f"line {begun}: what is shown before Ctrl-C?"
    yield Command(begun, text, tuple(line for line in shown if not _anything(line)))


def _anything(line: str) -> bool:
    return not WILDCARD.sub("", line).strip()


def _plain(line: str) -> str:
    return " ".join(line.split())


def _pattern(line: str) -> re.Pattern[str]:
    """Of one shown line; blanks count as one, and wildcards stand for anything."""
    return re.compile(".*".join(map(re.escape, WILDCARD.split(_plain(line)))))
