"""The few Linux calls behind namespaces and mounts that Python 3.11 does not offer.

Only the standard library: the mesh's first process imports this and nothing else.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from typing import Final

CLONE_FLAGS: Final = {
    "mnt": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
"""Kind of namespace, as in /proc/PID/ns, to its CLONE_NEW* flag (linux/sched.h)."""

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
"""Mount flags (linux/mount.h)."""

_PR_SET_NAME: Final = 15  # linux/prctl.h
_SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(*kinds: str) -> None:
    """Give the calling process new namespaces of these kinds. Raises OSError."""
    flags = 0
    for kind in kinds:
        flags |= CLONE_FLAGS[kind]
    _checked(_libc.unshare(flags), f"unshare {' '.join(kinds)}")


def setns(fd: int, kind: str) -> None:
    """Enter the namespace behind ``fd``. Raises OSError."""
    _checked(_libc.setns(fd, CLONE_FLAGS[kind]), f"enter {kind} namespace")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError that names the target."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _checked(result, f"mount {target}")


def bind(source_fd: int, target: str, *, read_only: bool) -> None:
    """Show the file or folder behind ``source_fd`` (O_PATH is enough) at ``target`` too."""
    mount(f"/proc/self/fd/{source_fd}", target, flags=MS_BIND | MS_REC)
    if read_only:
        # Flags that a parent user namespace has locked must be repeated, or the kernel refuses.
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def loopback_up() -> None:
    """Bring up ``lo`` in the current network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def set_hostname(name: str) -> None:
    """Name the current UTS namespace."""
    _checked(_libc.sethostname(name.encode(), len(name.encode())), "set host name")


def set_process_name(name: str) -> None:
    """What ``ps`` shows as the command (15 bytes at most)."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def map_root_to_caller(uid: int, gid: int) -> None:
    """In a fresh user namespace: root inside is the caller outside (user_namespaces(7))."""
    for file, text in (
        ("setgroups", "deny"),  # without it an unprivileged gid map is refused
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as out:
            out.write(text)
