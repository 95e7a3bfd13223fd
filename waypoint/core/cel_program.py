"""CEL as configuration carries it: compiled once, computed over Envoy's attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from waypoint.core.objects import UnusableError

MAX_EXPRESSION: Final = 4096


def compile_cel(text: str, field: str) -> Callable[[Mapping[str, Any]], Any]:
    """The value of an expression for attributes. Raises UnusableError; the value, ValueError."""
    if not text or len(text) > MAX_EXPRESSION:
        raise UnusableError(field, f"needs an expression of 1 to {MAX_EXPRESSION} characters")
    # Its package loads a command line of its own: a quarter of a second, 20 MB. It is the extension
    # that is imported: xds-protos has an empty ``cel/__init__.py`` too, and the last written stays.
    from cel import cel

    try:
        program = cel.compile(text)
    except (ValueError, RuntimeError) as error:
        raise UnusableError(field, f"{text!r} is no CEL: {error}") from None

    def evaluate(attributes: Mapping[str, Any]) -> Any:
        try:
            return program.execute(dict(attributes))
        except Exception as error:  # noqa: BLE001 - the library raises many kinds
            raise ValueError(str(error)) from None

    return evaluate


def printed(value: Any) -> str:
    """A value as text, as Envoy writes it where it wants a label or an entry; empty for none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
