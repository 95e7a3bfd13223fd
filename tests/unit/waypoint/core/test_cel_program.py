"""Expressions over attributes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from waypoint.core.cel_program import compile_cel, printed
from waypoint.core.objects import UnusableError


def test_an_expression_is_computed_over_attributes() -> None:
    value = compile_cel("request.size + 1", "f")
    assert value({"request": {"size": 2}}) == 3
    with pytest.raises(ValueError, match="size"):
        value({"request": {}})


@pytest.mark.parametrize("text", ["", "1 +", "x" * 5000])
def test_what_is_no_expression_is_named(text: str) -> None:
    with pytest.raises(UnusableError, match="f"):
        compile_cel(text, "f")


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (None, ""), (1.5, "1.5"), ("a", "a")])
def test_values_are_written_as_envoy_writes_them(value: object, text: str) -> None:
    assert printed(value) == text


EMPTY = """
import importlib.util, sys, types
empty = types.ModuleType("cel")
empty.__path__ = list(importlib.util.find_spec("cel").submodule_search_locations)
sys.modules["cel"] = empty
from waypoint.core.cel_program import compile_cel
print(compile_cel("1 + 1", "f")({}))
"""


def test_the_package_of_another_distribution_does_not_hide_it() -> None:
    """That of xds-protos is empty, and may be the one that was installed last."""
    done = subprocess.run([sys.executable, "-c", EMPTY], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
