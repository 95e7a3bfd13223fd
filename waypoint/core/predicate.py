"""Named tests of a request: what routes match on and what policy rules are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import re2

from waypoint.core.message import Request
from waypoint.core.objects import UnusableError, mapping, string

Test = Callable[[str], bool]


class Predicate(NamedTuple):
    """One test; ``field`` is its name in the object that asked for it.

    ``http`` is False where the test needs no HTTP: such tests also judge raw TCP connections.
    """

    field: str
    test: Callable[[Request], bool]
    http: bool = True


def first_failing(predicates: Iterable[Predicate], request: Request) -> Predicate | None:
    """The first test that the request does not pass, or None where it passes all."""
    for predicate in predicates:  # a generator costs as much as the test
        if not predicate.test(request):
            return predicate
    return None


REGEX_LIMIT = 1024
"""Longest accepted pattern, in characters."""
REGEX_MEMORY = 1 << 20
"""Bytes that one compiled pattern may take; nested counted repetitions need more."""


def regex_options() -> re2.Options:
    """What every pattern is compiled with: bounded, and silent."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = REGEX_MEMORY
    return options


def check_regex(pattern: str, field: str) -> None:
    """Raises UnusableError where this is no RE2 pattern, or one that is too large."""
    if len(pattern) > REGEX_LIMIT:
        raise UnusableError(field, f"regular expression longer than {REGEX_LIMIT} characters")
    try:
        re2.compile(pattern, regex_options())
    except (re2.error, UnicodeEncodeError) as error:
        words = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise UnusableError(field, f"{pattern!r} is not a regular expression: {words}") from None


def regex_test(pattern: str, field: str) -> Test:
    """Does the whole value match? RE2's time is linear in the value, whatever the pattern."""
    check_regex(pattern, field)
    compiled = re2.Set.FullMatchSet(regex_options())  # a set of one: its answer is only yes or no
    compiled.Add(pattern)
    compiled.Compile()
    return lambda value: compiled.Match(value) is not None


def string_match(value: Any, field: str, *, ignore_case: bool = False) -> Test | None:
    """Istio's StringMatch (exact, prefix or regex); None where it only asks for presence."""
    spec = mapping(value, field)
    if len(spec) > 1:
        raise UnusableError(field, "exactly one of exact, prefix, regex may be set")
    for kind, raw in spec.items():
        text = string(raw, f"{field}.{kind}")
        if kind == "exact":
            return _exact(text, ignore_case)
        if kind == "prefix":
            return _prefix(text, ignore_case) if text else None
        if kind == "regex":
            return None if text in ("*", "") else regex_test(text, f"{field}.regex")
        raise UnusableError(f"{field}.{kind}", "unknown kind of match")
    return None


def _exact(text: str, ignore_case: bool) -> Test:
    if ignore_case:
        folded = text.lower()
        return lambda value: value.lower() == folded
    return lambda value: value == text


def _prefix(text: str, ignore_case: bool) -> Test:
    if ignore_case:
        folded = text.lower()
        return lambda value: value.lower().startswith(folded)
    return lambda value: value.startswith(text)


def pattern_test(pattern: str, *, ignore_case: bool = False) -> Test:
    """A value of an AuthorizationPolicy: exact, ``prefix*``, ``*suffix`` or ``*`` (not empty)."""
    if ignore_case:
        inner = pattern_test(pattern.lower())
        return lambda value: inner(value.lower())
    if pattern == "*":
        return bool
    if pattern.endswith("*"):
        return _prefix(pattern[:-1], ignore_case=False)
    if pattern.startswith("*"):
        suffix = pattern[1:]
        return lambda value: value.endswith(suffix)
    return _exact(pattern, ignore_case=False)


def path_pattern_test(pattern: str, field: str) -> Test:
    """A path of an AuthorizationPolicy: as ``pattern_test``, or a template with {*} and {**}."""
    if "{" not in pattern and "}" not in pattern:
        return pattern_test(pattern)
    parts: list[str] = []
    segments = pattern.split("/")
    deep = False
    for segment in segments:
        if segment == "{*}" and not deep:
            parts.append("[^/]+")
        elif segment == "{**}" and not deep:
            parts.append(".*")
            deep = True
        elif set(segment) & set("{}*") or (deep and segment in ("{*}", "{**}")):
            raise UnusableError(field, f"{pattern!r} is not a path template")
        else:
            parts.append(re.escape(segment))
    compiled = re.compile("/".join(parts))
    return lambda value: compiled.fullmatch(value) is not None


def any_of(tests: Iterable[Test]) -> Test:
    """Does one of the tests pass?"""
    found = tuple(tests)
    if len(found) == 1:
        return found[0]
    return lambda value: any(test(value) for test in found)


def path_segments_test(prefix: str) -> Test:
    """Gateway API's PathPrefix: whole segments; a slash at the end of ``prefix`` is ignored."""
    stem = prefix.rstrip("/")
    below = stem + "/"
    return lambda value: value == stem or value.startswith(below)
