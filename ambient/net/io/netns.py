"""Run a function inside another network namespace, on the calling thread.

A socket belongs to the namespace in which it was made, for life; so only making one needs a
visit. Python 3.11 has no ``os.setns``, hence ctypes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
NS_GET_NSTYPE: Final = 0xB703  # linux/nsfs.h: ioctl that answers with a CLONE_NEW* flag

P = ParamSpec("P")
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def setns(fd: int, kind: int) -> None:
    """setns(2) for the calling thread. Raises OSError."""
    if _libc.setns(fd, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


class Netns:
    """A network namespace, kept alive by the descriptor that this object owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        info = os.fstat(fd)
        self.key: Final = (info.st_dev, info.st_ino)
        """The same for every descriptor of the same namespace."""

    @classmethod
    def open(cls, path: str | Path) -> Netns:
        """A namespace by a file that names it (``/proc/PID/ns/net``, a bind mount).

        Raises OSError, also where the file is no network namespace.
        """
        return cls.from_fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def from_fd(cls, fd: int) -> Netns:
        """Take over a descriptor. Raises OSError (and closes it) where it is no such namespace."""
        try:
            kind = _namespace_kind(fd)
            if kind != CLONE_NEWNET:
                raise OSError(f"descriptor is a namespace of another kind ({kind:#x})")
            return cls(fd)
        except OSError:
            os.close(fd)
            raise

    @classmethod
    def current(cls) -> Netns:
        """The namespace that the calling thread is in."""
        return cls.from_fd(_open_here())

    @property
    def fd(self) -> int:
        """The open descriptor, still owned by this object."""
        if self._fd < 0:
            raise ValueError("network namespace is closed")
        return self._fd

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` inside the namespace and come home. Raises what it raises, or OSError.

        The function must not wait: for its duration the whole thread is away.
        """
        home = _main_home.leave()
        try:
            setns(self.fd, CLONE_NEWNET)
            try:
                return function(*args, **kwargs)
            finally:
                _return_home(home)
        finally:
            _main_home.back(home)

    def close(self) -> None:
        """Give the descriptor back; harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Netns:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Netns {self.key[1]}>"


class OwnNetns(Netns):
    """The namespace that this process is in: no visit, and so no privilege, is needed."""

    @classmethod
    def open_own(cls) -> OwnNetns:
        """Raises OSError."""
        return cls(_open_here())

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` where we are."""
        return function(*args, **kwargs)


class _MainHome:
    """Where threads come from. The main thread's answer is kept: it makes a visit for every
    connection, and opening a file of /proc takes longer than the rest of it.
    """

    def __init__(self) -> None:
        self._kept = -1
        self._away = False

    def leave(self) -> int:
        """A descriptor of the namespace in which the calling thread is now; give it ``back``."""
        is_main = threading.get_ident() == threading.main_thread().ident
        if not is_main or self._away:  # a visit within a visit ends where that one is
            return _open_here()
        if self._kept < 0:
            self._kept = _open_here()
        self._away = True
        return self._kept

    def back(self, home: int) -> None:
        """The thread is there again."""
        if home == self._kept:
            self._away = False
        else:
            os.close(home)


_main_home: Final = _MainHome()


def _open_here() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _namespace_kind(fd: int) -> int:
    kind: int = _libc.ioctl(fd, ctypes.c_ulong(NS_GET_NSTYPE))
    if kind < 0:
        raise OSError(ctypes.get_errno(), "descriptor is not a namespace")
    return kind


def _return_home(home: int) -> None:
    """Leave the visited namespace, or end the process.

    A thread that stays behind would from then on act in the name of the wrong pod.
    """
    try:
        setns(home, CLONE_NEWNET)
    except OSError as error:
        sys.stderr.write(f"error: cannot leave a pod's network namespace: {error}\n")
        os.abort()
