"""Talks to ``chat`` and prints what it hears as JSON: ``talk.py echo|count|fail|deadline|ws``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from queue import Queue
from typing import Any

import grpc
import websocket

GRPC = "chat:9000"
MESSAGES = (b"one", b"two", b"three" * 30_000)


def echo(channel: grpc.Channel) -> dict[str, Any]:
    """Each message goes out only when the answer to the one before it is here."""
    turns: Queue[bytes | None] = Queue()

    def requests() -> Iterator[bytes]:
        while (message := turns.get()) is not None:
            yield message

    call = channel.stream_stream("/Chat/Echo")(requests(), metadata=[("x-name", "ann")])
    heard = []
    for message in MESSAGES:
        turns.put(message)
        heard.append(next(call) == b"%d %s" % (len(heard) + 1, message))
    turns.put(None)
    assert list(call) == []
    hello, count = dict(call.initial_metadata())["x-hello"], dict(call.trailing_metadata())
    return {"heard": heard, "hello": hello, "count": count["x-count"]}


def count(channel: grpc.Channel) -> dict[str, Any]:
    return {"heard": len(list(channel.unary_stream("/Chat/CountUp")(b"x" * 5000)))}


def fail(channel: grpc.Channel) -> dict[str, Any]:
    channel.unary_unary("/Chat/Fail")(b"")
    return {}


def deadline(channel: grpc.Channel) -> dict[str, Any]:
    """A conversation in which nobody says anything."""
    silence: Queue[bytes] = Queue()
    requests = iter(silence.get, None)
    list(channel.stream_stream("/Chat/Echo")(requests, timeout=0.5))
    return {}


def talk_by_websocket() -> dict[str, Any]:
    talk = websocket.create_connection("ws://chat:8000/room", subprotocols=["talk"], timeout=20)
    heard = []
    for words in ("hello", "what", "x" * 100_000):
        talk.send(words)
        heard.append(talk.recv() == words.upper())
    talk.ping("still there?")
    pong = talk.recv_frame()
    talk.close(1000)
    headers = {name.lower(): value for name, value in talk.headers.items()}
    return {
        "heard": heard,
        "pong": pong.data.decode(),
        "protocol": talk.subprotocol,
        "server": headers.get("server", ""),
    }


def main() -> None:
    what = sys.argv[1]
    try:
        if what == "ws":
            found = talk_by_websocket()
        else:
            with grpc.insecure_channel(GRPC) as channel:
                found = {"echo": echo, "count": count, "fail": fail, "deadline": deadline}[what](
                    channel
                )
    except grpc.RpcError as error:
        found = {"code": error.code().name, "details": error.details()}
    except websocket.WebSocketBadStatusException as error:
        found = {"status": error.status_code}
    print(json.dumps(found))


main()
