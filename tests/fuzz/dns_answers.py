"""Any bytes as the answer to a question that the tunnel itself asked for an endpoint's name."""

from __future__ import annotations

from contextlib import suppress

from dnslib import RR, DNSRecord

from ztunnel.core.resolution import read_answer

NAME, NUMBER = "www.example.com", 0x0102


def _seeds():
    reply = DNSRecord.question(NAME).reply()
    reply.header.id = NUMBER
    yield reply.pack()
    for line in ("A 192.0.2.1", "CNAME other.example.com", "TXT hello"):
        reply.add_answer(*RR.fromZone(f"{NAME} 60 IN {line}"))
    yield reply.pack()
    # A record of a private type that holds a long chain of pointers; the name of the next record
    # is its end.
    start = bytes.fromhex("0102818000010002000000000161000001 0001".replace(" ", ""))
    base = len(start) + 11
    chain = bytes(2) + b"".join((0xC000 | base + 2 * n).to_bytes(2, "big") for n in range(4000))
    private = b"\0" + bytes.fromhex("ff00000100000000") + len(chain).to_bytes(2, "big") + chain
    name = (0xC000 | base + len(chain) - 2).to_bytes(2, "big")
    yield start + private + name + bytes.fromhex("00010001000000010004c0000201")


SEEDS = [bytes(seed) for seed in _seeds()]


def run(data):
    """Raises AssertionError, or whatever else should not happen."""
    with suppress(ValueError):
        answer = read_answer(data, NAME, 1, NUMBER)
        assert answer is None or answer.truncated or all(ip.version for ip in answer.addresses)
