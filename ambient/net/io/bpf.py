"""The bpf(2) system call: maps, programs, links, and names for them in a BPF file system.

Programs come as bytes from ``bpf_compiler``; nothing here needs bcc, so what was loaded once can
be found and changed again without a compiler. Every object owns a descriptor; what is pinned lives
on without one, across restarts of whoever made it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, Self

from ambient.api.errors import MeshError

BPF_FS: Final = "/sys/fs/bpf"
_BPF_FS_MAGIC: Final = 0xCAFE4A11  # linux/magic.h
_NUMBERS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_LOG_BYTES: Final = 1 << 16
_LICENSE: Final = ctypes.create_string_buffer(b"GPL")  # some helper functions demand it

ANY, NO_EXIST = 0, 1  # flags of an update

_libc = ctypes.CDLL(None, use_errno=True)


class BpfError(MeshError):
    """The kernel refuses something of BPF; the message says what and why."""


class Command(IntEnum):
    """enum bpf_cmd of linux/bpf.h."""

    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    MAP_NEXT_KEY = 4
    PROGRAM_LOAD = 5
    PIN = 6
    GET = 7
    ATTACH = 8
    DETACH = 9
    INFO = 15
    BTF_LOAD = 18
    LINK_CREATE = 28
    LINK_UPDATE = 29


class MapType(IntEnum):
    """enum bpf_map_type."""

    HASH = 1
    ARRAY = 2
    LRU_HASH = 9
    LPM_TRIE = 11
    SOCKMAP = 15
    SOCKHASH = 18
    SK_STORAGE = 24


class ProgramType(IntEnum):
    """enum bpf_prog_type."""

    SOCK_OPS = 13
    SK_SKB = 14
    SK_MSG = 16
    CGROUP_SOCK_ADDR = 18
    CGROUP_SOCKOPT = 25
    SK_LOOKUP = 30


class AttachType(IntEnum):
    """enum bpf_attach_type."""

    SOCK_OPS = 3
    SK_SKB_STREAM_PARSER = 4
    SK_SKB_STREAM_VERDICT = 5
    SK_MSG_VERDICT = 7
    CONNECT4 = 10
    CONNECT6 = 11
    SENDMSG4 = 14
    SENDMSG6 = 15
    RECVMSG4 = 19
    RECVMSG6 = 20
    GETSOCKOPT = 21
    GETPEERNAME4 = 29
    GETPEERNAME6 = 30
    SK_LOOKUP = 36


def call(command: Command, attributes: bytes) -> int:
    """bpf(2) with the packed ``union bpf_attr``. Raises OSError."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "bpf(2) is not known on this architecture")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _libc.syscall(number, int(command), buffer, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class _Owned:
    """An object of the kernel by a descriptor of ours."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The open descriptor, still owned by this object."""
        if self._fd < 0:
            raise ValueError("the BPF object is closed")
        return self._fd

    @classmethod
    def pinned(cls, path: str | Path) -> Self:
        """What has this name in a BPF file system. Raises OSError."""
        name = ctypes.create_string_buffer(os.fsencode(path))
        return cls(call(Command.GET, struct.pack("=QII", ctypes.addressof(name), 0, 0)))

    def pin(self, path: str | Path) -> None:
        """Give it a name, by which it outlives us. Raises OSError."""
        name = ctypes.create_string_buffer(os.fsencode(path))
        call(Command.PIN, struct.pack("=QII", ctypes.addressof(name), self.fd, 0))

    def close(self) -> None:
        """Give the descriptor back; harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Map(_Owned):
    """A map; keys and values are bytes of the lengths that it was made with."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        kind, _, self.key_size, self.value_size, self.max_entries = _info(fd, "=IIIII")
        self.kind: Final = MapType(kind)

    @classmethod
    def create(
        cls,
        kind: MapType,
        name: str,
        sizes: tuple[int, int],
        max_entries: int,
        *,
        flags: int = 0,
        btf: tuple[int, int, int] = (0, 0, 0),
    ) -> Self:
        """``sizes``: key and value in bytes; ``btf``: descriptor and types of key and value.

        Raises OSError.
        """
        label = name.encode()[:15]
        head = struct.pack("=IIIIIII16sI", kind, *sizes, max_entries, flags, 0, 0, label, 0)
        return cls(call(Command.MAP_CREATE, head + struct.pack("=III", *btf)))

    def get(self, key: bytes) -> bytes | None:
        """The value, None where there is none. Raises OSError."""
        value = ctypes.create_string_buffer(self.value_size)
        try:
            self._element(Command.MAP_LOOKUP, key, value)
        except FileNotFoundError:
            return None
        return value.raw

    def put(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Set one element. Raises OSError."""
        buffer = ctypes.create_string_buffer(value, self.value_size)
        try:
            self._element(Command.MAP_UPDATE, key, buffer, flags)
        except OSError as error:
            if error.errno not in (errno.E2BIG, errno.ENOSPC):  # hash tables, tries
                raise
            raise OSError(error.errno, f"a BPF map is full ({self.max_entries} entries)") from None

    def drop(self, key: bytes) -> bool:
        """Remove one element; whether it was there. Raises OSError."""
        try:
            self._element(Command.MAP_DELETE, key, None)
        except FileNotFoundError:
            return False
        return True

    def keys(self) -> Iterator[bytes]:
        """All keys; those that are added or removed meanwhile may be missed or repeated."""
        last: bytes | None = None
        for _ in range(2 * self.max_entries):
            found = ctypes.create_string_buffer(self.key_size)
            try:
                self._element(Command.MAP_NEXT_KEY, last, found)
            except FileNotFoundError:
                return
            last = found.raw
            yield last

    def _element(
        self,
        command: Command,
        key: bytes | None,
        other: ctypes.Array[ctypes.c_char] | None,
        flags: int = 0,
    ) -> None:
        where = ctypes.create_string_buffer(key, self.key_size) if key is not None else None
        pointers = (ctypes.addressof(part) if part is not None else 0 for part in (where, other))
        call(command, struct.pack("=I4xQQQ", self.fd, *pointers, flags))


class Program(_Owned):
    """A loaded program."""

    @classmethod
    def load(
        cls, kind: ProgramType, name: str, code: bytes, attach_type: AttachType | None = None
    ) -> Self:
        """Have the kernel check it. Raises BpfError with the verifier's reason."""
        instructions = ctypes.create_string_buffer(code, len(code))
        log = ctypes.create_string_buffer(_LOG_BYTES)

        def attributes(level: int) -> bytes:
            return struct.pack(
                "=IIQQIIQII16sII",
                kind,
                len(code) // 8,
                ctypes.addressof(instructions),
                ctypes.addressof(_LICENSE),
                level,
                _LOG_BYTES if level else 0,
                ctypes.addressof(log) if level else 0,
                0,
                0,
                name.encode()[:15],
                0,
                attach_type or 0,
            )

        try:
            return cls(call(Command.PROGRAM_LOAD, attributes(0)))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EINVAL):
                try:
                    return cls(call(Command.PROGRAM_LOAD, attributes(1)))
                except OSError as again:
                    error = again
            raise _load_error(name, error, log.value) from None

    def attach(self, target: int, kind: AttachType) -> None:
        """The old way, for what knows no links: to a map, until it is detached. Raises OSError."""
        call(Command.ATTACH, struct.pack("=IIIII", target, self.fd, kind, 0, 0))

    def detach(self, target: int, kind: AttachType) -> None:
        """Undo ``attach``. Raises OSError."""
        call(Command.DETACH, struct.pack("=IIIII", target, self.fd, kind, 0, 0))


class Link(_Owned):
    """A program in its place: until the last descriptor and the last name are gone."""

    @classmethod
    def create(cls, program: Program, target: int, kind: AttachType) -> Self:
        """To a cgroup (version 2) or a network namespace, by its descriptor. Raises OSError."""
        attributes = struct.pack("=IIII", program.fd, target, kind, 0)
        return cls(call(Command.LINK_CREATE, attributes))

    def replace(self, program: Program) -> None:
        """Put another program in, without a moment in between. Raises OSError."""
        call(Command.LINK_UPDATE, struct.pack("=IIII", self.fd, program.fd, 0, 0))

    @property
    def program_id(self) -> int:
        """The kernel's number of the program that is in it. Raises OSError."""
        found: int = _info(self.fd, "=III")[2]
        return found

    @property
    def netns_inode(self) -> int:
        """Of a link to a network namespace: which one; 0 when that has ended. Raises OSError."""
        found: int = _info(self.fd, "=IIIII")[4]
        return found


def program_id(program: Program) -> int:
    """The kernel's number of a program. Raises OSError."""
    found: int = _info(program.fd, "=II")[1]
    return found


def is_bpf_fs(path: str | Path) -> bool:
    """Whether a BPF file system is there."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    found: int = struct.unpack_from("=q", buffer)[0]
    return found & 0xFFFFFFFF == _BPF_FS_MAGIC


def load_btf(blob: bytes) -> int:
    """A descriptor of type information. Raises OSError."""
    data = ctypes.create_string_buffer(blob, len(blob))
    return call(
        Command.BTF_LOAD, struct.pack("=QQIII4x", ctypes.addressof(data), 0, len(blob), 0, 0)
    )


def _info(fd: int, layout: str) -> tuple[int, ...]:
    """The first fields of what the kernel tells about an object."""
    info = ctypes.create_string_buffer(256)
    call(Command.INFO, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
    return struct.unpack_from(layout, info)


def _load_error(name: str, error: OSError, log: bytes) -> BpfError:
    if error.errno == errno.EPERM:
        return BpfError(
            f"not allowed to load the BPF program {name}",
            hint="it needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, in the first user "
            "namespace",
        )
    lines = [line for line in log.decode(errors="replace").splitlines() if line.strip()]
    # The last lines are statistics; what was wrong is said just ahead of them.
    said = [line for line in lines if not line.startswith(("processed ", "verification time"))]
    reason = said[-1] if said else error.strerror
    return BpfError(
        f"the kernel refuses the BPF program {name}: {reason}",
        hint="it is probably too old: Linux 5.17 has all that is used",
    )
