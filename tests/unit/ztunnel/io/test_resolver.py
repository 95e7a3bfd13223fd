"""Asking the node's DNS servers: which, how often, and what they may do wrong."""

from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
import trio
from dnslib import QTYPE, RCODE, RR, A, DNSRecord

from ztunnel.io.resolver import Resolver

ADDRESS = ip_address("192.0.2.1")


class Server:
    """A DNS server on ``host`` port 53 of the sandbox's own network namespace."""

    def __init__(self, host):
        self.host = host
        self.asked = []
        self.ttl = 60
        self.rcode = RCODE.NOERROR
        self.truncates = False
        self.silent = False

    async def run(self, *, task_status):
        listeners = await trio.open_tcp_listeners(53, host=self.host)
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
            await sock.bind((self.host, 53))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._over_tcp, listeners)
                task_status.started()
                while True:
                    data, client = await sock.recvfrom(4096)
                    if self.silent:
                        self.asked.append("silence")
                        continue
                    reply = self._answer(data, self.truncates)
                    await sock.sendto(b"\0" * 20, client)  # somebody else's answer
                    await sock.sendto(reply, client)

    async def _over_tcp(self, stream):
        data = await stream.receive_some(4096)
        reply = self._answer(data[2:], False)
        await stream.send_all(len(reply).to_bytes(2, "big") + reply)

    def _answer(self, data, truncated):
        query = DNSRecord.parse(data)
        kind = QTYPE.get(query.q.qtype)
        self.asked.append(kind)
        reply = query.reply()
        reply.header.rcode = self.rcode
        if truncated:
            reply.header.tc = 1
        elif kind == "A" and not self.rcode:
            reply.add_answer(RR(query.q.qname, QTYPE.A, rdata=A(str(ADDRESS)), ttl=self.ttl))
        return reply.pack()


@asynccontextmanager
async def world(path, *hosts, timeout_s=30.0):
    """Servers on these addresses, and a resolver that knows them."""
    path.write_text("".join(f"nameserver {host}\n" for host in hosts))
    async with trio.open_nursery() as nursery:
        servers = [Server(host) for host in hosts]
        for server in servers:
            await nursery.start(server.run)
        with trio.fail_after(30):
            yield Resolver(str(path), timeout_s), *servers
        nursery.cancel_scope.cancel()


@pytest.fixture
def conf(tmp_path):
    return tmp_path / "resolv.conf"


async def test_one_question_for_each_family_and_then_the_cache(conf):
    async with world(conf, "127.0.0.1") as (resolver, server):
        answers = []

        async def ask():
            answers.append(await resolver.addresses("DB.example."))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        assert answers == [(ADDRESS,)] * 10
        assert await resolver.addresses("db.example") == (ADDRESS,)
        assert sorted(server.asked) == ["A", "AAAA"]


async def test_the_next_server_is_asked_where_one_will_not_or_cannot_say(conf):
    async with world(conf, "127.0.0.2", "127.0.0.3", timeout_s=0.2) as (resolver, first, second):
        first.rcode = RCODE.SERVFAIL
        assert await resolver.addresses("a.example") == (ADDRESS,)
        first.rcode, first.silent = RCODE.NOERROR, True
        assert await resolver.addresses("b.example") == (ADDRESS,)
        assert sorted(second.asked) == ["A", "A", "AAAA", "AAAA"]


async def test_a_long_answer_comes_over_tcp(conf):
    async with world(conf, "127.0.0.1") as (resolver, server):
        server.truncates = True
        assert await resolver.addresses("db.example") == (ADDRESS,)
        assert sorted(server.asked) == ["A", "A", "AAAA", "AAAA"]


async def test_an_old_answer_serves_while_nobody_answers(conf):
    async with world(conf, "127.0.0.1") as (resolver, server):
        server.ttl = 0
        assert await resolver.addresses("db.example") == (ADDRESS,)
        server.rcode = RCODE.SERVFAIL
        await trio.sleep(1.1)  # the shortest life of an answer
        assert await resolver.addresses("db.example") == (ADDRESS,)
        assert len(server.asked) > 2


async def test_without_a_server_there_is_no_address(conf):
    async with world(conf, "127.0.0.1") as (resolver, server):
        server.rcode = RCODE.NXDOMAIN
        assert await resolver.addresses("none.example") == ()
    conf.unlink()
    assert await Resolver(str(conf)).addresses("db.example") == ()
    conf.write_text("nameserver 127.0.0.1\n")  # nobody listens there now
    assert await Resolver(str(conf)).addresses("db.example") == ()
