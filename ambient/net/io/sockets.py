"""TCP sockets of the tunnel: made inside a pod's namespace, marked, and never redirected again.

The mark is what the pod's redirect rules let through (``ambient.net.core.rules``). An accepted
socket inherits it from its listener; without it the replies of captured connections would be
captured themselves.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from functools import lru_cache
from typing import Final, NamedTuple

import trio

from ambient.api.address import HostPort, IPAddress, canonical, parse_ip
from ambient.api.errors import UnavailableError
from ambient.api.ports import FOREIGN_SOURCE_BIT
from ambient.net.io.netns import Netns
from ambient.net.io.succession import take_over

SO_MARK: Final = 36  # asm-generic/socket.h; missing from Python's socket module
SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h; ip6_tables.h uses the same number
IP_TRANSPARENT: Final = 19  # linux/in.h
IP_FREEBIND: Final = 15
IP_BIND_ADDRESS_NO_PORT: Final = 24
"""Choose the port at connect, when the whole 4-tuple counts, not at bind."""
IPV6_TRANSPARENT: Final = 75  # linux/in6.h
IPV6_FREEBIND: Final = 78
SOL_IP: Final = socket.IPPROTO_IP
SOL_IPV6: Final = socket.IPPROTO_IPV6

BACKLOG: Final = 128  # ztunnel's
CONNECT_TIMEOUT_S: Final = 10.0  # ztunnel's, for every upstream dial

_SOCKADDR_IN: Final = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6: Final = struct.Struct("!2xH4x16s4x")


class KeepAlive(NamedTuple):
    """TCP keepalive: idle seconds, seconds between probes, probes. The defaults are ztunnel's."""

    idle_s: int = 180
    interval_s: int = 180
    probes: int = 9


class ListenOptions(NamedTuple):
    """How a listener is made."""

    mark: int | None = None
    reuse_port: bool = True
    """A second tunnel may listen beside us, which an upgrade needs; who comes last gets what is
    new (``ambient.net.io.succession``)."""
    transparent: bool = True
    """Try IP_TRANSPARENT, so that the last hop may keep the client's address."""
    host: str = ""
    """One address to bind; empty for every address of every family that there is."""


class Listener(NamedTuple):
    """A bound socket, and whether it was allowed to be transparent."""

    socket: socket.socket
    transparent: bool

    @property
    def port(self) -> int:
        """The port, also where 0 was asked for."""
        return int(self.socket.getsockname()[1])


class ConnectError(UnavailableError):
    """A dial failed; ``timed_out`` tells silence from refusal."""

    def __init__(self, target: HostPort, reason: str, *, timed_out: bool = False) -> None:
        hint = "does a NetworkPolicy or firewall drop it?" if timed_out else "is it listening?"
        super().__init__(f"no connection to {target}: {reason}", hint=hint)
        self.target = target
        self.timed_out = timed_out


def listen_in(netns: Netns | None, port: int, options: ListenOptions) -> Listener:
    """Listen inside ``netns`` (None: our own), dual-stack where it has IPv6. Raises OSError."""
    if netns is None:
        return _listen(port, options)
    return netns.run(_listen, port, options)


def set_mark(sock: socket.socket, mark: int | None) -> None:
    """SO_MARK; needs CAP_NET_ADMIN. Raises OSError."""
    if mark is not None:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)


def tune(sock: socket.socket, keep_alive: KeepAlive | None) -> None:
    """TCP_NODELAY, keepalive where asked for, and urgent data in its place in the stream.

    HBONE carries no urgency, and without SO_OOBINLINE (RFC 6093 section 6) the byte would be lost.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    if keep_alive is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keep_alive.idle_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keep_alive.interval_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keep_alive.probes)


async def connect_in(
    netns: Netns | None,
    address: HostPort,
    *,
    mark: int | None = None,
    bind_source: IPAddress | None = None,
    keep_alive: KeepAlive | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> socket.socket:
    """A connected, non-blocking socket inside ``netns``. Raises ConnectError.

    ``bind_source`` asks for a foreign source address; where the kernel refuses that, the dial
    goes out with our own.
    """
    ip = address.ip
    if ip is None:
        raise ConnectError(address, "the host is not an IP address")
    sock = _make_in(netns, ip, mark, bind_source, address)
    try:
        tune(sock, keep_alive)
        code = sock.connect_ex((str(ip), address.port))
        if code == errno.EINPROGRESS:
            # Inside one machine the handshake is over by now; asking costs less than waiting.
            code = sock.connect_ex((str(ip), address.port))
        if code in (errno.EINPROGRESS, errno.EALREADY):
            with trio.move_on_after(timeout_s) as scope:
                await trio.lowlevel.wait_writable(sock)
            if scope.cancelled_caught:
                raise ConnectError(address, f"no answer within {timeout_s:g} s", timed_out=True)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code != 0:
            timed_out = code == errno.ETIMEDOUT
            raise ConnectError(address, os.strerror(code), timed_out=timed_out)
    except BaseException:
        sock.close()
        raise
    return sock


def original_destination(sock: socket.socket) -> HostPort:
    """Where the client wanted to go before a redirect; else the address that it reached.

    IPv4-mapped addresses come back as IPv4. Raises OSError where the socket is already dead.
    """
    for level, layout in ((SOL_IP, _SOCKADDR_IN), (SOL_IPV6, _SOCKADDR_IN6)):
        try:
            raw = sock.getsockopt(level, SO_ORIGINAL_DST, layout.size)
        except OSError:
            continue
        port, packed = layout.unpack(raw)
        family = socket.AF_INET if level == SOL_IP else socket.AF_INET6
        return host_port(socket.inet_ntop(family, packed), port)
    return local_address(sock)


def local_address(sock: socket.socket) -> HostPort:
    """Our end, IPv4-mapped as IPv4. Raises OSError."""
    host, port = sock.getsockname()[:2]
    return host_port(host, port)


def peer_address(sock: socket.socket) -> HostPort:
    """The other end, IPv4-mapped as IPv4. Raises OSError where it is already gone."""
    host, port = sock.getpeername()[:2]
    return host_port(host, port)


def host_port(host: str, port: int) -> HostPort:
    """A socket address in the mesh's form."""
    return HostPort(_canonical_text(host), port)


@lru_cache(4096)
def _canonical_text(host: str) -> str:
    ip = parse_ip(host.partition("%")[0])
    return str(ip) if ip else host


def _listen(port: int, options: ListenOptions) -> Listener:
    host = options.host
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return _bound(family, host, port, options)
    try:
        return _bound(socket.AF_INET6, "::", port, options)
    except OSError as error:
        # No IPv6 in this kernel or namespace; anything else (a port in use) is the answer.
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
    return _bound(socket.AF_INET, "0.0.0.0", port, options)


def _bound(family: socket.AddressFamily, host: str, port: int, options: ListenOptions) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(SOL_IPV6, socket.IPV6_V6ONLY, 1 if options.host else 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after one that has just left
        if options.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        set_mark(sock, options.mark)
        # One flag a socket: the IPv4 option covers an IPv6 socket and is inherited on accept.
        transparent = options.transparent and _try_option(sock, SOL_IP, IP_TRANSPARENT)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        if options.reuse_port:
            take_over(sock)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, transparent)


def _make_in(
    netns: Netns | None,
    ip: IPAddress,
    mark: int | None,
    bind_source: IPAddress | None,
    target: HostPort,
) -> socket.socket:
    family = socket.AF_INET if canonical(ip).version == 4 else socket.AF_INET6
    try:
        if netns is None:
            sock = socket.socket(family, socket.SOCK_STREAM)
        else:
            sock = netns.run(socket.socket, family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectError(target, f"no socket: {error.strerror}") from None
    try:
        sock.setblocking(False)
        if bind_source is None or bind_source == ip or bind_source.version != ip.version:
            set_mark(sock, mark)
        else:
            set_mark(sock, None if mark is None else mark | FOREIGN_SOURCE_BIT)
            _take_source(sock, bind_source)
    except OSError as error:
        sock.close()
        raise ConnectError(target, f"cannot set up the socket: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _take_source(sock: socket.socket, source: IPAddress) -> bool:
    """Speak from a foreign address; False where the kernel does not allow it."""
    if source.version == 4:
        options = ((SOL_IP, IP_TRANSPARENT), (SOL_IP, IP_FREEBIND))
    else:
        options = ((SOL_IPV6, IPV6_TRANSPARENT), (SOL_IPV6, IPV6_FREEBIND))
    if not all(_try_option(sock, level, option) for level, option in options):
        return False
    _try_option(sock, SOL_IP, IP_BIND_ADDRESS_NO_PORT)
    try:
        sock.bind((str(source), 0))
    except OSError:
        return False
    return True


def _try_option(sock: socket.socket, level: int, option: int) -> bool:
    try:
        sock.setsockopt(level, option, 1)
    except OSError:
        return False
    return True
