"""A small resolver in a namespace: what it knows, what it was asked, and how it may misbehave."""

from __future__ import annotations

import socket

import trio
from dnslib import QTYPE, RCODE, RR, DNSRecord

from ambient.net.io.sockets import ListenOptions, listen_in


class DnsServer:
    """``records``: a name without its final dot, and a type, to lines of a zone file."""

    def __init__(self, records=None, *, udp=True, tcp=True):
        self.records = records or {}
        self.asked = []
        self.raw = []
        self.udp = udp
        self.tcp = tcp
        self.cut_over_udp = False
        self.rcode = None
        self.lost = 0
        """How many datagrams to lose first."""
        self.forge = None
        """A function of a query's bytes; the datagrams that it makes are sent first."""

    async def run(self, pod, host, port=53, *, task_status):
        """Serve on this address of a pod."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        async with trio.open_nursery() as nursery:
            if self.udp:
                sock = pod.netns.run(socket.socket, family, socket.SOCK_DGRAM)
                sock.bind((host, port))
                nursery.start_soon(self._datagrams, trio.socket.from_stdlib_socket(sock))
            if self.tcp:
                options = ListenOptions(host=host, transparent=False)
                listener = listen_in(pod.netns, port, options).socket
                listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
                nursery.start_soon(trio.serve_listeners, self._stream, [listening])
            task_status.started()

    def answer(self, data):
        query = DNSRecord.parse(data)
        name, kind = str(query.q.qname).rstrip(".").lower(), QTYPE[query.q.qtype]
        reply = query.reply(ra=1, aa=0)
        if self.rcode is not None:
            reply.header.rcode = self.rcode
            return reply
        lines = self.records.get((name, kind))
        if lines is None:
            known = any(name == other for other, _ in self.records)
            reply.header.rcode = RCODE.NOERROR if known else RCODE.NXDOMAIN
        for line in lines or ():
            for record in RR.fromZone(f"{query.q.qname} 60 IN {kind} {line}"):
                reply.add_answer(record)
        return reply

    async def _datagrams(self, sock):
        with sock:
            while True:
                data, peer = await sock.recvfrom(65535)
                self._note("udp", data)
                if self.lost:
                    self.lost -= 1
                    continue
                for forged in self.forge(data) if self.forge else ():
                    await sock.sendto(forged, peer)
                reply = self.answer(data)
                if self.cut_over_udp:
                    reply = reply.truncate()
                await sock.sendto(reply.pack(), peer)

    async def _stream(self, stream):
        try:
            while True:
                size = int.from_bytes(await _exactly(stream, 2), "big")
                data = await _exactly(stream, size)
                self._note("tcp", data)
                answers = [self.answer(data).pack()]
                if QTYPE[DNSRecord.parse(data).q.qtype] == "AXFR":
                    answers *= 2
                for packed in answers:
                    await stream.send_all(len(packed).to_bytes(2, "big") + packed)
        except (EOFError, trio.BrokenResourceError):
            await stream.aclose()

    def _note(self, protocol, data):
        query = DNSRecord.parse(data)
        self.raw.append(data)
        self.asked.append((protocol, str(query.q.qname).rstrip("."), QTYPE[query.q.qtype]))


async def _exactly(stream, size):
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
