"""Errors that a person reads: each names the thing and the remedy."""

from __future__ import annotations


class MeshError(Exception):
    """One clear line for the user, and what to do about it.

    ``hint`` is the remedy; programs print ``error: <message>`` and ``hint: <hint>`` and exit with
    ``exit_code``, never with a traceback (``ambient.cli.run``).
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(MeshError):
    """The caller asked for something that cannot be meant."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is missing or has a value that cannot be used."""


class UnavailableError(MeshError):
    """A part of the mesh that should answer does not."""
