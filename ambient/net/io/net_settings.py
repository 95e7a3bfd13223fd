"""Settings of a network namespace, below /proc/sys/net; the kernel has no other way to them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Final

from ambient.net.io.netns import Netns

_BASE: Final = "sys/net"
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on all architectures
_CLOEXEC: Final = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_CMD_CREATE: Final = 6  # FSCONFIG_CMD_CREATE
_VALUE_BYTES: Final = 64

_libc = ctypes.CDLL(None, use_errno=True)


def read_here(name: str) -> bytes:
    """Of the calling thread's namespace, such as ``ipv4/ip_forward``. Raises OSError."""
    with open(f"/proc/{_BASE}/{name}", "rb") as file:
        return file.read(_VALUE_BYTES).strip()


def write(netns: Netns, values: Mapping[str, bytes]) -> None:
    """Bring them to these values; what has its value is not touched.

    Settings of IPv6 may be missing. Raises OSError; PermissionError and read-only file systems
    mean that neither /proc/sys is writable nor a file system of our own can be mounted.
    """
    netns.run(_write_here, values)


def _write_here(values: Mapping[str, bytes]) -> None:
    try:
        _write_all(values, f"/proc/{_BASE}", None)
        return
    except FileNotFoundError:
        raise
    except OSError:
        pass  # a container sees it read-only; a file system of our own is not
    folder = _own_proc()
    try:
        _write_all(values, _BASE, folder)
    finally:
        os.close(folder)


def _write_all(values: Mapping[str, bytes], base: str, folder: int | None) -> None:
    for name, value in values.items():
        try:
            _write(f"{base}/{name}", value, folder)
        except FileNotFoundError:
            if not name.startswith("ipv6"):
                raise


def _write(path: str, value: bytes, folder: int | None) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        present = os.read(fd, _VALUE_BYTES).strip()
    finally:
        os.close(fd)
    if present != value:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.write(fd, value)
        finally:
            os.close(fd)


def _own_proc() -> int:
    """A procfs that is mounted nowhere. Raises OSError."""
    context = _checked(_libc.syscall(_FSOPEN, b"proc", _CLOEXEC))
    try:
        _checked(_libc.syscall(_FSCONFIG, context, _CMD_CREATE, None, None, 0))
        return _checked(_libc.syscall(_FSMOUNT, context, _CLOEXEC, 0))
    finally:
        os.close(context)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
