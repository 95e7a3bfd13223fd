"""The eBPF redirection's programs and maps: made once a node, found again by their names.

What is where (``redirect.c`` is the source):

- ``connect4/6`` and ``sendmsg4/6`` at the root of the cgroups see every connect(2) of the node and
  act on those in the network namespaces of enrolled pods: the destination becomes the tunnel's
  listener on the pod's loopback. Not at each pod's own cgroup: what is enrolled is a network
  namespace, as with the nftables backend, and so is every process in it, wherever it belongs; nor
  is a pod's group known when its network is made, or at all where version 1 has the pods.
- ``sockops`` notes the original destination by the client's end of the connection, before its
  first packet leaves, and the tunnel's listeners as they are opened.
- The tunnel dials the application from its client's address. Such a connection may have the very
  addresses and ports of one that the client itself has from outside, and the kernel would give one
  the other's packets: so ``connect4/6`` choose its port among those that the client does not use,
  and where the client comes from there later, ``sockops`` ties each to its device.
- ``getsockopt`` answers SO_ORIGINAL_DST from that note. So the tunnel, whoever made it, asks as
  it asks netfilter, and does not notice which backend a pod has.
- ``getpeername4/6`` and ``recvmsg4/6`` show the application the address that it asked for.
- ``sk_lookup``, one in each pod's namespace, gives connections from outside to the tunnel.

Everything is pinned: programs, maps and links outlive the agent. A newer version puts its programs
into the same links, between one connection and the next.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from ambient.api.ports import (
    DNS_PORT,
    HBONE_PORT,
    MARK_MASK,
    OUTBOUND_PORT,
    PLAINTEXT_PORT,
    PROBE_SOURCE_V4,
    PROBE_SOURCE_V6,
    PROXY_MARK,
    REPLY_MARK,
)
from ambient.net.core import btf
from ambient.net.core.bpf_code import Binding, Constant, MapFd, bind, places
from ambient.net.io import bpf, bpf_compiler, bpf_flows, cgroup2
from ambient.net.io.bpf import (
    AttachType,
    BpfError,
    Link,
    Map,
    MapType,
    Program,
    ProgramType,
    program_id,
)

_MOST_PODS: Final = 4096
_MOST_ADDRESSES: Final = 16 * _MOST_PODS
_MOST_FLOWS: Final = 16384
"""Notes of where connections were going; needed until the tunnel has accepted them."""
_MOST_DIALS: Final = 65536
DIAL_PORTS: Final = range(32768, 61000)
"""Of the tunnel's connections to an application in its client's name (Linux's own default)."""
_NO_PREALLOC: Final = 1  # BPF_F_NO_PREALLOC, which tries and socket storage demand


class _MapForm(NamedTuple):
    kind: MapType
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int = 0


MAPS: Final[Mapping[str, _MapForm]] = {
    "PODS": _MapForm(MapType.HASH, 8, 36, _MOST_PODS),
    "OWN": _MapForm(MapType.LPM_TRIE, 28, 4, _MOST_ADDRESSES, _NO_PREALLOC),
    "ORIGINALS": _MapForm(MapType.LRU_HASH, 32, 20, _MOST_FLOWS),
    "CLIENTS": _MapForm(MapType.SK_STORAGE, 4, 20, 0, _NO_PREALLOC),
    "DIALS": _MapForm(MapType.LRU_HASH, 48, 4, _MOST_DIALS),
    "ARRIVALS": _MapForm(MapType.LRU_HASH, 48, 4, _MOST_FLOWS),
    "LISTENERS": _MapForm(MapType.SOCKHASH, 16, 8, bpf_flows.SLOTS * _MOST_PODS),
}
_CGROUP_PROGRAMS: Final[Mapping[str, tuple[ProgramType, AttachType]]] = {
    **{
        each.name.lower(): (ProgramType.CGROUP_SOCK_ADDR, each)
        for each in (
            AttachType.CONNECT4,
            AttachType.CONNECT6,
            AttachType.SENDMSG4,
            AttachType.SENDMSG6,
            AttachType.RECVMSG4,
            AttachType.RECVMSG6,
            AttachType.GETPEERNAME4,
            AttachType.GETPEERNAME6,
        )
    },
    "sockops": (ProgramType.SOCK_OPS, AttachType.SOCK_OPS),
    "getsockopt": (ProgramType.CGROUP_SOCKOPT, AttachType.GETSOCKOPT),
}
_LOOKUP: Final = "sk_lookup"
GUARD: Final = "guard"
"""Of ``bpf_unit``."""
_SOURCES: Final = ("redirect.c", "unit_guard.c")
PLACES: Final = places((*MAPS, "NETNS"))


def _macros() -> str:
    """Ports, marks and addresses as sources call them."""
    probe_v6 = struct.unpack("!IIII", PROBE_SOURCE_V6.packed)
    numbers = {
        "PORT_OUTBOUND": OUTBOUND_PORT,
        "PORT_PLAINTEXT": PLAINTEXT_PORT,
        "PORT_HBONE": HBONE_PORT,
        "PORT_DNS": DNS_PORT,
        "MARK_PROXY": PROXY_MARK,
        "MARK_REPLY": REPLY_MARK,
        "MASK": MARK_MASK,
        "DIAL_PORT": DIAL_PORTS.start,
        "DIAL_PORTS": len(DIAL_PORTS),
        "PROBE_4": int(PROBE_SOURCE_V4),
        **{f"PROBE_6_{index}": part for index, part in enumerate(probe_v6)},
    }
    return "".join(f"#define {name} {number}u\n" for name, number in numbers.items())


def source() -> str:
    """What is compiled."""
    texts = (Path(__file__).with_name(name).read_text() for name in _SOURCES)
    return _macros() + "\n".join(texts)


class Programs:
    """The node's programs in their places, and the maps that they share with us."""

    def __init__(
        self, folder: Path, maps: dict[str, Map], version: str, code: Mapping[str, bytes]
    ) -> None:
        self.folder: Final = folder
        self.maps: Final = maps
        self.version: Final = version
        """Of the source; also of a pod's program, in the name of its link."""
        self.code: Final = code
        """Of every function, with places for the maps."""

    def lookup_program(self, netns_cookie: int) -> Program:
        """The program for one pod's namespace. Raises BpfError."""
        places = bindings(self.maps) | {PLACES["NETNS"]: Constant(netns_cookie)}
        code = bind(self.code[_LOOKUP], places)
        return Program.load(ProgramType.SK_LOOKUP, _LOOKUP, code, AttachType.SK_LOOKUP)


def open_programs(proc_dir: str, folder: str = bpf_flows.FOLDER) -> Programs:
    """Find the programs, or make them; an older version is replaced while it works.

    Blocks for about a second where they have to be compiled. Raises BpfError or MeshError with the
    reason why this node has none.
    """
    if not bpf.is_bpf_fs(Path(folder).parent):
        raise BpfError(
            f"there is no BPF file system at {Path(folder).parent}",
            hint=f"mount -t bpf bpf {Path(folder).parent}",
        )
    text = source()
    top = Path(folder)
    with ExitStack() as undo:
        maps = _open_maps(top / bpf_flows.MAPS, undo)
        names = (*_CGROUP_PROGRAMS, _LOOKUP, GUARD)
        code = bpf_compiler.compile_c(text, names, PLACES)
        version = hashlib.sha256(text.encode()).hexdigest()[:12]
        try:
            _put_in_place(top, maps, code, version, proc_dir)
        except OSError as error:
            raise _refused("to put its programs in their places", error) from None
        undo.pop_all()
    return Programs(top, maps, version, code)


def open_maps(folder: str = bpf_flows.FOLDER) -> dict[str, Map] | None:
    """The maps that an agent has left on the node; None where there are none."""
    try:
        return {name: Map.pinned(Path(folder, bpf_flows.MAPS, name.lower())) for name in MAPS}
    except OSError:
        return None


def remove_programs(folder: str = bpf_flows.FOLDER) -> None:
    """Take everything off the node; harmless when repeated. Raises OSError."""
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(path, name))
        for name in folders:
            os.rmdir(os.path.join(path, name))
    if os.path.isdir(folder):
        os.rmdir(folder)


def _open_maps(folder: Path, undo: ExitStack) -> dict[str, Map]:
    maps = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in MAPS:
            path = folder / name.lower()
            try:
                made = Map.pinned(path)
            except FileNotFoundError:
                made = make_map(name)
                made.pin(path)
            maps[name] = made
            undo.callback(made.close)
    except OSError as error:
        raise _refused("to make its maps", error) from None
    return maps


def make_map(name: str) -> Map:
    """One of ``MAPS``, without a name in the file system. Raises OSError."""
    form = MAPS[name]
    sizes = (form.key_bytes, form.value_bytes)
    if form.kind is not MapType.SK_STORAGE:
        return Map.create(form.kind, name.lower(), sizes, form.max_entries, flags=form.flags)
    types = bpf.load_btf(btf.words(form.value_bytes // 4))
    try:
        return Map.create(
            form.kind, name.lower(), sizes, form.max_entries, flags=form.flags, btf=(types, 1, 2)
        )
    finally:
        os.close(types)


def bindings(maps: Mapping[str, Map]) -> dict[int, Binding]:
    """For ``bind``: each map in its place."""
    return {PLACES[name]: MapFd(each.fd) for name, each in maps.items()}


def _put_in_place(
    top: Path, maps: dict[str, Map], code: Mapping[str, bytes], version: str, proc_dir: str
) -> None:
    """Each program into its link. Redirecting comes last: what it needs is there by then."""
    ours, links = top / f"programs-{version}", top / bpf_flows.LINKS
    for folder in (ours, links):
        folder.mkdir(exist_ok=True)
    root = cgroup2.open_root(proc_dir)
    try:
        for name, (kind, place) in reversed(tuple(_CGROUP_PROGRAMS.items())):
            with _program(ours / name, kind, place, bind(code[name], bindings(maps))) as program:
                put_in(links / name, program, root, place)
    finally:
        os.close(root)
    for folder in top.glob("programs-*"):
        if folder != ours:
            remove_programs(str(folder))


def _program(path: Path, kind: ProgramType, place: AttachType, code: bytes) -> Program:
    try:
        return Program.pinned(path)
    except FileNotFoundError:
        made = Program.load(kind, path.name, code, place)
        made.pin(path)
        return made


def put_in(path: Path, program: Program, target: int, place: AttachType) -> None:
    """Let the program be what is in this link, which is made if need be. Raises OSError."""
    try:
        with Link.pinned(path) as link:
            if link.program_id != program_id(program):
                link.replace(program)
    except FileNotFoundError:
        with Link.create(program, target, place) as link:
            link.pin(path)


def _refused(what: str, error: OSError) -> BpfError:
    if error.errno == errno.EPERM:
        hint = (
            "it needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, in the first user namespace, "
            "and no program that has the root cgroup for itself (bpftool cgroup tree shows them)"
        )
        return BpfError(f"the eBPF redirection is not allowed {what}", hint=hint)
    return BpfError(f"the kernel does not let the eBPF redirection {what}: {error.strerror}")
