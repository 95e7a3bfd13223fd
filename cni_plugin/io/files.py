"""Files in folders that others read at any time."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from ambient.api.errors import MeshError

NEW_FILE_MODE: Final = 0o600


def replace(path: Path, text: str, mode: int | None = None) -> None:
    """Replace the file in one step; without ``mode`` an old file's stays. Raises MeshError."""
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        if mode is None:
            mode = path.stat().st_mode & 0o777 if path.exists() else NEW_FILE_MODE
        temporary.write_text(text)
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # a folder that is read-only has nothing of ours to remove
            temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> MeshError:
    """What to tell the operator."""
    hint = "the folder must be writable for the node agent"
    if error.errno == errno.EROFS:
        hint = "mount the node's folder into the agent without readOnly"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room on the node's disk; what was there is unchanged"
    return MeshError(f"cannot write {path}: {error.strerror}", hint=hint)
