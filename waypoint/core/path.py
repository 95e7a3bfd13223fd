"""Path normalisation, done before policy looks and before the request is forwarded.

This is Istio's default (``BASE``): what policy compares is what the application receives.
"""

from __future__ import annotations

import re
from enum import Enum

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile('["<>^`{|}]')
_UNRESERVED = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"  # RFC 3986, 2.3
)
_PLAIN = re.compile(r"(?:/[A-Za-z0-9\-_~!$&'()*+,;=:@][A-Za-z0-9\-_~!$&'()*+,;=:@.]*)*/?")
"""No segment starts with a dot, no escape, no backslash, no doubled slash: already normal."""


class Normalization(Enum):
    """What is done to paths (``meshConfig.pathNormalization``)."""

    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


def normalise_target(target: str, how: Normalization = Normalization.BASE) -> str | None:
    """The request target with its path normalised; fragment dropped; query untouched.

    None where the path cannot be normalised: it has a broken escape, an escaped NUL, or does not
    start with a slash. As in Envoy, nothing is above the root, and characters that no path may
    have are escaped.
    """
    target = target.partition("#")[0]
    path, question, query = target.partition("?")
    if how is Normalization.NONE:
        return path + question + query if path.startswith("/") else None
    if not path or not _PLAIN.fullmatch(path):
        if how is Normalization.DECODE_AND_MERGE_SLASHES:
            path = _SLASHES.sub("/", path)
        normal = _normalise(path)
        if normal is not None and how is not Normalization.BASE:
            normal = _RUN.sub("/", normal)
        if normal is None:
            return None
        path = normal
    return path + question + query


_SLASHES = re.compile(r"%(?:2[Ff]|5[Cc])")
_RUN = re.compile("//+")


def _normalise(path: str) -> str | None:
    if not path.startswith(("/", "\\")) or _BROKEN_ESCAPE.search(path):
        return None
    path = _ESCAPE.sub(_decoded, path).replace("\\", "/")
    path = _FORBIDDEN.sub(lambda match: f"%{ord(match[0]):02X}", path)
    if "%00" in path:
        return None
    kept: list[str] = []
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
            continue
        if last:
            kept.append("")  # "/a/." is "/a/", and "/a/b/.." is "/a/"
    return "/" + "/".join(kept)


def _decoded(match: re.Match[str]) -> str:
    char = chr(int(match[1], 16))
    return char if char in _UNRESERVED else match[0]
