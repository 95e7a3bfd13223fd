"""Answers of programs that were kept in a file: ``-f FILE``, ``-`` for standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ambient.api.errors import MeshError, UsageError


def read_json(path: str) -> Any:
    """A file, or standard input for ``-``. Raises UsageError, or MeshError for what is no JSON."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        return json.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        hint = "give a /config_dump: zc all -o json, pc all"
        raise MeshError(f"{path} is no JSON: {error}", hint=hint) from error
