"""Two tunnels on the same port: what is new goes to the successor, and nothing is lost.

Sockets that share a port (SO_REUSEPORT) form a group, in which the kernel chooses by a hash. When
one of them closes, the kernel resets what waits in its accept queue and every handshake that it
has begun. So the successor, as soon as it listens, gives the group a program of one instruction
that always chooses the youngest member: from then on the predecessor gets nothing new, and before
it closes it only has to wait for its last handshakes and accept what they left in its queue.

Considered and not taken: ``net.ipv4.tcp_migrate_req`` moves queued connections to the successor,
but a container without privileges cannot write it, and it would be a setting of the pod; handing
over listeners by SCM_RIGHTS needs a protocol between two processes that may be of different make.
The program needs no privilege and works with any predecessor.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Final

from ambient.api.ports import MARK_MASK, PLAINTEXT_PORT, PROXY_MARK
from ambient.net.io import sock_diag
from ambient.net.io.netns import Netns

SO_ATTACH_REUSEPORT_CBPF: Final = 51  # asm-generic/socket.h
_RETURN: Final = 0x06  # linux/bpf_common.h: BPF_RET | BPF_K
_INSTRUCTION: Final = struct.Struct("=HBBI")  # struct sock_filter
_PROGRAM: Final = struct.Struct("@HP")  # struct sock_fprog


def take_over(sock: socket.socket) -> bool:
    """Send whatever is new to ``sock``, which is bound (TCP: listens) with SO_REUSEPORT.

    To be called in the socket's namespace. False where nobody shares the port, or where the kernel
    does not tell: then the hash decides, as without us.
    """
    try:
        others = sharing(sock) - 1
        if others < 1:
            return False
        # A member's index is its age. When an older one leaves, the index is beyond the end and the
        # kernel chooses by the hash again: among one where two tunnels change places.
        program = ctypes.create_string_buffer(_INSTRUCTION.pack(_RETURN, 0, 0, others))
        option = _PROGRAM.pack(1, ctypes.addressof(program))
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, option)
    except OSError:
        return False
    return True


def sharing(sock: socket.socket) -> int:
    """How many sockets have this one's address and port, itself among them. Raises OSError.

    To be called in the socket's namespace.
    """
    stream = sock.type == socket.SOCK_STREAM
    host, port = sock.getsockname()[:2]
    found = sock_diag.sockets(
        sock_diag.LISTENING if stream else sock_diag.CLOSED,
        socket.IPPROTO_TCP if stream else socket.IPPROTO_UDP,
    )
    return sum(_address(one) == (sock.family, host, port) for one in found)


def _address(found: sock_diag.FoundSocket) -> tuple[int, str, int]:
    return found.family, found.source, found.source_port


def handshakes(netns: Netns, ports: frozenset[int]) -> int:
    """Handshakes of TCP connections with listeners on ``ports`` that have begun and not ended.

    0 where the kernel does not tell. The eBPF redirection leaves the port that the client asked
    for; then the mark tells that it is the tunnel's.
    """
    try:
        found = netns.run(sock_diag.sockets, sock_diag.SYN_RECEIVED)
    except OSError:
        return 0
    captures = PLAINTEXT_PORT in ports
    return sum(
        one.source_port in ports or (captures and one.mark & MARK_MASK == PROXY_MARK)
        for one in found
    )
