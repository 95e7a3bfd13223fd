"""A socket map carries what an application and its tunnel say to each other inside a pod.

``socket_map.c`` is the source. Bytes go from the sender's call into the receiver's queue, without
segments, acknowledgements and the loopback device. Connections are set up and ended by TCP, and
everything that the map cannot carry as TCP would goes by TCP:

- Both ends are in the map before the first byte, or the direction stays with TCP for ever: the
  kernel hands out what was redirected ahead of what came by TCP. The other way is safe, so a
  direction may fall back to TCP at any time, and does where the receiver's queue fills, since
  nothing else bounds it.
- Two sockets are joined by the namespace, the client's port and both first sequence numbers of
  their handshake, of which one is the tunnel's (by its mark) and one is not.
- The kernel's receive call for sockets in a map returns EAGAIN to a process that waits in it when
  a signal or a reset arrives, and heeds neither MSG_WAITALL nor SO_RCVLOWAT: sockets of
  applications that do not use O_NONBLOCK stay out. It also hides redirected data from splice(2),
  which is why ``TO_APPLICATION`` is not the default.

Programs hold the map and sockets hold the programs, so connections go on as they are when
everything is taken off the node; only new ones are not joined.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from enum import IntFlag
from pathlib import Path
from typing import Final, Self

from ambient.api.ports import MARK_MASK, OUTBOUND_PORT, PROXY_MARK, REPLY_MARK
from ambient.net.core import btf
from ambient.net.core.bpf_code import Binding, Constant, MapFd, bind, places
from ambient.net.io import bpf, bpf_compiler, cgroup2
from ambient.net.io.bpf import AttachType, BpfError, Link, Map, MapType, Program, ProgramType

FOLDER: Final = f"{bpf.BPF_FS}/ambient-socket-map"
_KERNEL_TYPES: Final = "/sys/kernel/btf/vmlinux"
_MOST_PODS: Final = 4096
_MOST_CONNECTIONS: Final = 65536
_MOST_HANDSHAKES: Final = 16384
_LINK_BYTES: Final = 56
_STORAGE: Final = 0x201  # BPF_F_NO_PREALLOC, BPF_F_CLONE: accepted sockets inherit it
_MAPS: Final[Mapping[str, tuple[MapType, tuple[int, int], int]]] = {
    "MEMBERS": (MapType.HASH, (8, 4), _MOST_PODS),
    "HANDSHAKES": (MapType.LRU_HASH, (24, 8), _MOST_HANDSHAKES),
    "CONNECTIONS": (MapType.LRU_HASH, (8, 24), _MOST_CONNECTIONS),
    "SOCKETS": (MapType.SOCKHASH, (16, 8), 2 * _MOST_CONNECTIONS),
    "LINKS": (MapType.SK_STORAGE, (4, _LINK_BYTES), 0),
    "COUNTS": (MapType.ARRAY, (4, 8), 5),
}
COUNTS: Final = ("joined", "crowded", "blocking", "late", "alone")
"""What happened, in the order of the C source: connections that were joined; directions that fell
back because the receiver was slow; connections or directions of blocking applications; sends that
were ahead of the map; clients whose other end did not join."""
_FIELDS: Final = {
    "SOCK_QUEUED": "sock.sk_backlog.rmem_alloc",
    "SOCK_ROOM": "sock.sk_rcvbuf",
    "SOCK_ROUTE": "sock.sk_dst_cache",
    "ROUTE_DEVICE": "dst_entry.dev",
    "DEVICE_INDEX": "net_device.ifindex",
    "SOCK_SOCKET": "sock.sk_socket",
    "SOCKET_FILE": "socket.file",
    "FILE_FLAGS": "file.f_flags",
    "TCP_WRITE_SEQ": "tcp_sock.write_seq",
    "ICSK_ULP": "inet_connection_sock.icsk_ulp_ops",
}
_PLACES: Final = places((*_MAPS, *_FIELDS))
_PROGRAMS: Final = ("sockops", "sk_msg")


class Directions(IntFlag):
    """What the map carries for a pod."""

    NONE = 0
    FROM_APPLICATION = 1
    TO_APPLICATION = 2
    BOTH = 3


class SocketMap:
    """The maps of a node where the programs are in their places."""

    def __init__(self, maps: dict[str, Map]) -> None:
        self._maps: Final = maps

    def admit(self, netns_cookie: int, directions: Directions) -> None:
        """New connections in this namespace are joined from now on. Raises OSError."""
        self._maps["MEMBERS"].put(struct.pack("=Q", netns_cookie), struct.pack("=I", directions))

    def dismiss(self, netns_cookie: int) -> None:
        """New ones are not, and those that were joined go on. Raises OSError."""
        self._maps["MEMBERS"].drop(struct.pack("=Q", netns_cookie))

    def members(self) -> dict[int, Directions]:
        """By the cookie of the namespace. Raises OSError."""
        found = {}
        for key in self._maps["MEMBERS"].keys():  # noqa: SIM118 - a map of the kernel
            value = self._maps["MEMBERS"].get(key)
            if value is not None:
                found[struct.unpack("=Q", key)[0]] = Directions(struct.unpack("=I", value)[0])
        return found

    def counts(self) -> dict[str, int]:
        """How often each of ``COUNTS`` has happened. Raises OSError."""
        counts = self._maps["COUNTS"]
        values = (counts.get(struct.pack("=I", index)) or bytes(8) for index in range(len(COUNTS)))
        return {
            name: struct.unpack("=Q", value)[0] for name, value in zip(COUNTS, values, strict=True)
        }

    def sockets(self) -> int:
        """How many sockets are in the map. Raises OSError."""
        return sum(1 for _ in self._maps["SOCKETS"].keys())  # noqa: SIM118

    def close(self) -> None:
        """Let go; the programs stay where they are."""
        for each in self._maps.values():
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_socket_map(proc_dir: str, folder: str = FOLDER) -> SocketMap:
    """Find it, or make it; an older version stays with the connections that it has joined.

    Blocks for about a second where it has to be compiled. Raises MeshError with the reason why
    this node cannot have one.
    """
    if not bpf.is_bpf_fs(Path(folder).parent):
        raise BpfError(
            f"there is no BPF file system at {Path(folder).parent}",
            hint=f"mount -t bpf bpf {Path(folder).parent}",
        )
    source = _source()
    top = Path(folder, hashlib.sha256(source.encode()).hexdigest()[:12])
    try:
        with ExitStack() as undo:
            if not (top / "link").exists():
                remove_socket_map(folder)
                _put_in_place(top, source, proc_dir)
            maps = {name: Map.pinned(top / name.lower()) for name in _MAPS}
            undo.pop_all()
        return SocketMap(maps)
    except OSError as error:
        raise BpfError(
            f"the kernel does not let the socket map be made: {error.strerror or error}",
            hint="it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or CAP_SYS_ADMIN, in the first "
            "user namespace",
        ) from None


def remove_socket_map(folder: str = FOLDER) -> None:
    """Take it off the node; connections go on. Harmless when repeated. Raises OSError."""
    for path, folders, files in os.walk(folder, topdown=False):
        # The link first: no socket may join when its program is about to go.
        for name in sorted(files, key=lambda name: name != "link"):
            os.unlink(os.path.join(path, name))
        for name in folders:
            os.rmdir(os.path.join(path, name))
    if os.path.isdir(folder):
        os.rmdir(folder)


def _source() -> str:
    macros = (
        f"#define PORT_OUTBOUND {OUTBOUND_PORT}u\n"
        f"#define MARK_PROXY {PROXY_MARK}u\n"
        f"#define MARK_REPLY {REPLY_MARK}u\n"
        f"#define MASK {MARK_MASK}u\n"
    )
    return macros + Path(__file__).with_name("socket_map.c").read_text()


def _put_in_place(top: Path, source: str, proc_dir: str) -> None:
    """Maps, then what fills them. The link's name comes last: with it everything is there."""
    with ExitStack() as closing:
        code = bpf_compiler.compile_c(source, _PROGRAMS, _PLACES)
        constants = _offsets()
        top.mkdir(parents=True, exist_ok=True)
        maps = {name: closing.enter_context(_make(name)) for name in _MAPS}
        bindings: dict[int, Binding] = {
            **{_PLACES[name]: MapFd(each.fd) for name, each in maps.items()},
            **{_PLACES[name]: Constant(value) for name, value in constants.items()},
        }
        verdict, sockops = (
            closing.enter_context(Program.load(kind, name, bind(code[name], bindings)))
            for kind, name in ((ProgramType.SK_MSG, "sk_msg"), (ProgramType.SOCK_OPS, "sockops"))
        )
        verdict.attach(maps["SOCKETS"].fd, AttachType.SK_MSG_VERDICT)
        for name, each in maps.items():
            each.pin(top / name.lower())
        root = cgroup2.open_root(proc_dir)
        closing.callback(os.close, root)
        closing.enter_context(Link.create(sockops, root, AttachType.SOCK_OPS)).pin(top / "link")


def _offsets() -> dict[str, int]:
    try:
        found = btf.offsets(Path(_KERNEL_TYPES).read_bytes(), _FIELDS.values())
    except (OSError, btf.BtfError) as error:
        raise BpfError(
            f"the kernel's type information does not say where its fields are: {error}",
            hint="the socket map needs a kernel with CONFIG_DEBUG_INFO_BTF",
        ) from None
    return {name: found[field] for name, field in _FIELDS.items()}


def _make(name: str) -> Map:
    kind, sizes, entries = _MAPS[name]
    label = f"sm_{name.lower()}"
    if kind is not MapType.SK_STORAGE:
        return Map.create(kind, label, sizes, entries)
    types = bpf.load_btf(btf.words(sizes[1] // 4))
    try:
        return Map.create(kind, label, sizes, entries, flags=_STORAGE, btf=(types, 1, 2))
    finally:
        os.close(types)
