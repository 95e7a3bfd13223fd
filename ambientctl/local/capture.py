"""What crosses a node's link on the fabric: TCP payloads, as an eavesdropper there sees them.

Run as a program inside the mesh (``python -m ambientctl.local.capture DEVICE``) it writes records
to standard output; for every byte on standard input it first writes what has arrived so far and
then a marker, so that a reader can wait for everything up to now.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from ambient.api.address import HostPort
from ambientctl.local.layout import FABRIC_ADDRESS

HEADER: Final = struct.Struct("!4sH4sHI")
"""Source address and port, destination address and port, bytes of payload that follow."""
MARKER: Final = HEADER.pack(b"\0\0\0\0", 0, b"\0\0\0\0", 0, 0)
SNAP_BYTES: Final = 1 << 17
"""Larger than any segment that segmentation offload hands over at once (64 KiB)."""
BUFFER_BYTES: Final = 8 << 20
_ETH_P_ALL: Final = 0x0003


class Segment(NamedTuple):
    """The payload of one TCP segment."""

    source: HostPort
    destination: HostPort
    payload: bytes


def parse_frame(frame: bytes) -> Segment | None:
    """An Ethernet frame's TCP payload; None for all else, and for the API server's traffic."""
    if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
        return None
    ip = frame[14:]
    tcp = ip[(ip[0] & 0x0F) * 4 : int.from_bytes(ip[2:4], "big") or None]
    if len(tcp) < 20:
        return None
    payload = tcp[(tcp[12] >> 4) * 4 :]
    source, destination = str(IPv4Address(ip[12:16])), str(IPv4Address(ip[16:20]))
    if not payload or FABRIC_ADDRESS in (source, destination):
        return None
    source_port, destination_port = struct.unpack_from("!HH", tcp)
    return Segment(
        HostPort(source, source_port), HostPort(destination, destination_port), bytes(payload)
    )


def encode(segment: Segment) -> bytes:
    """A record."""
    source, destination = segment.source, segment.destination
    head = HEADER.pack(
        IPv4Address(source.host).packed,
        source.port,
        IPv4Address(destination.host).packed,
        destination.port,
        len(segment.payload),
    )
    return head + segment.payload


class RecordReader:
    """Cuts the helper's output into records; counts the markers."""

    def __init__(self) -> None:
        self._buffer = b""
        self.markers = 0

    def feed(self, data: bytes) -> list[Segment]:
        """Segments that ``data`` completes."""
        self._buffer += data
        found = []
        while len(self._buffer) >= HEADER.size:
            source, source_port, destination, destination_port, size = HEADER.unpack_from(
                self._buffer
            )
            if len(self._buffer) < HEADER.size + size:
                break
            payload = self._buffer[HEADER.size : HEADER.size + size]
            self._buffer = self._buffer[HEADER.size + size :]
            if not size:
                self.markers += 1
                continue
            found.append(
                Segment(
                    HostPort(str(IPv4Address(source)), source_port),
                    HostPort(str(IPv4Address(destination)), destination_port),
                    payload,
                )
            )
        return found


def main() -> None:
    """Capture on the device until standard input ends."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.bind((sys.argv[1], _ETH_P_ALL))
        sock.setblocking(False)
        os.write(1, MARKER)  # from here on nothing is missed
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(0, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            asked = os.read(0, 64) if 0 in ready else b""
            out = _drain(sock) + MARKER * len(asked)
            while out:
                out = out[os.write(1, out) :]
            if 0 in ready and not asked:
                return


def _drain(sock: socket.socket) -> bytes:
    records: list[bytes] = []
    while True:
        try:
            frame = sock.recv(SNAP_BYTES)
        except BlockingIOError:
            return b"".join(records)
        segment = parse_frame(frame)
        if segment is not None:
            records.append(encode(segment))


if __name__ == "__main__":
    main()
