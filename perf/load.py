"""Load on one address, from inside whichever network namespace this is run in; JSON on stdout.

python -m perf.load downloads|connects|paced|idle HOST PORT SIZE SECONDS [RATE]
"""

from __future__ import annotations

import ctypes
import json
import resource
import select
import selectors
import socket
import sys
import time
from collections import deque
from contextlib import ExitStack

REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"
LAST_REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"
BODY = b"hello world, a small response body for a small request\n"
PR_SET_TIMERSLACK = 29  # linux/prctl.h; the default of 50 us would blur what is measured
PATIENCE_S = 10.0

Address = tuple[str, int]
Result = dict[str, float]


def downloads(address: Address, streams: int, seconds: float) -> Result:
    """Megabytes per second of so many downloads of an endless file, all at once."""
    buffer = bytearray(1 << 20)
    total = 0
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        for _ in range(streams):
            sock = opened.enter_context(socket.create_connection(address))
            sock.sendall(b"GET /big/64g HTTP/1.1\r\nHost: app\r\n\r\n")
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, sock)
        begin = time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            for key, _ in selector.select(1):
                size = key.data.recv_into(buffer)
                assert size, "the download ended early"
                total += size
    return {"value": total / (now - begin) / 1e6}


def connects(address: Address, at_once: int, seconds: float) -> Result:
    """Connect, one small request, close: how many a second, ``at_once`` at any time."""
    done = 0
    with selectors.DefaultSelector() as selector:

        def begin_one() -> None:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            selector.register(sock, selectors.EVENT_WRITE)

        for _ in range(at_once):
            begin_one()
        begin = time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            for key, events in selector.select(1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if events & selectors.EVENT_WRITE:
                    sock.send(LAST_REQUEST)
                    selector.modify(sock, selectors.EVENT_READ)
                elif not sock.recv(65_536):
                    selector.unregister(sock)
                    sock.close()
                    done += 1
                    begin_one()
    return {"value": done / (now - begin)}


def paced(address: Address, connections: int, seconds: float, rate: float) -> Result:
    """Milliseconds from when a request was due, ``rate`` of them a second, to its answer.

    A request that finds every connection busy waits, and its wait counts: what a stall costs is not
    hidden by sending less during it ("coordinated omission").
    """
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    clock = time.perf_counter
    many = int(rate * seconds)
    latencies: list[float] = []
    with ExitStack() as opened, select.epoll() as epoll:
        socks = {}
        for _ in range(connections):
            sock = opened.enter_context(socket.create_connection(address))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            socks[sock.fileno()] = sock
            epoll.register(sock, select.EPOLLIN)
        free = deque(socks.values())
        due_of: dict[int, float] = {}
        sent = 0
        begin = clock() + 0.05
        while len(latencies) < many and clock() < begin + seconds + PATIENCE_S:
            while sent < many and free and (due := begin + sent / rate) <= clock():
                sock = free.popleft()
                sock.send(REQUEST)
                due_of[sock.fileno()] = due
                sent += 1
            wait = begin + sent / rate - clock() if sent < many and free else 1.0
            select.select([epoll], [], [], max(0.0, wait))  # epoll's own timeout is in ms
            for fd, _ in epoll.poll(0):
                if not socks[fd].recv(65_536).endswith(BODY):
                    continue  # the rest follows, or the end, which the deadline finds
                latencies.append((clock() - due_of.pop(fd)) * 1e3)
                free.append(socks[fd])
    assert len(latencies) == many, f"{len(latencies)} answers to {many} requests"
    latencies = sorted(latencies[many // 10 :])  # the first tenth warms up
    return {
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[len(latencies) * 99 // 100],
        "requests": many,
    }


def idle(address: Address, connections: int) -> None:
    """Open connections, use each once, say so, and hold them until the standard input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as opened:
        for _ in range(connections):
            sock = opened.enter_context(socket.create_connection(address))
            sock.sendall(REQUEST)
            while not sock.recv(65_536).endswith(BODY):
                pass
        print("open", flush=True)
        sys.stdin.read()


def main() -> None:
    work, host, port, size, seconds, *rate = sys.argv[1:]
    address = (host, int(port))
    match work:
        case "downloads":
            print(json.dumps(downloads(address, int(size), float(seconds))))
        case "connects":
            print(json.dumps(connects(address, int(size), float(seconds))))
        case "paced":
            print(json.dumps(paced(address, int(size), float(seconds), float(rate[0]))))
        case "idle":
            idle(address, int(size))
        case _:
            raise SystemExit(f"error: no work named {work}")


if __name__ == "__main__":
    main()
