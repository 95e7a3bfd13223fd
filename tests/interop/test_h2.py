"""Our codec against hyper's h2, an independent HTTP/2, in both roles and without a network."""

from __future__ import annotations

import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes

from ambient.hbone.core.connect import ConnectResponse
from tests.unit.ambient.hbone.core.wire import Side

CONNECT = [(":method", "CONNECT"), (":authority", "10.0.0.7:80"), ("baggage", "k8s.pod.name=web")]
BULK = bytes(range(256)) * 12_000  # 3 MB: many frames, many window updates


class Pair:
    """Us and h2, and whatever h2 told."""

    def __init__(self, *, we_are_client):
        self.us = Side(client=we_are_client)
        config = H2Configuration(client_side=not we_are_client, validate_inbound_headers=True)
        self.peer = H2Connection(config)
        self.peer.initiate_connection()
        self.events = []
        self.shuttle()

    def shuttle(self):
        while True:
            ours, theirs = self.us.take(), self.peer.data_to_send()
            if not ours and not theirs:
                return
            self.events += self.peer.receive_data(ours)
            assert self.us.feed(theirs) is None

    def told(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def received(pair):
    """h2 takes what came and gives the window back."""
    data = b""
    for event in pair.told(events.DataReceived):
        data += event.data
        pair.peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    pair.events = [e for e in pair.events if not isinstance(e, events.DataReceived)]
    return data


def test_h2_as_client_opens_a_tunnel_and_both_send_bulk():
    pair = Pair(we_are_client=False)
    pair.peer.send_headers(1, CONNECT)
    pair.shuttle()
    assert pair.us.log[-1][0] == "request"
    assert dict(pair.told(events.ResponseReceived)[0].headers)[b":status"] == b"200"
    stream, rest, got = pair.us.tunnel.streams[1], BULK, b""
    back = BULK
    while rest or len(got) < len(BULK):
        size = min(
            len(rest), pair.peer.local_flow_control_window(1), pair.peer.max_outbound_frame_size
        )
        if size:
            pair.peer.send_data(1, rest[:size])
            rest = rest[size:]
        back = back[stream.send(back) :]
        pair.us.tunnel.congested = False
        pair.shuttle()
        got += received(pair)
    assert got == BULK
    assert b"".join(e[2] for e in pair.us.log if e[0] == "data") == BULK


def test_h2_as_server_answers_our_connect_and_both_half_close():
    pair = Pair(we_are_client=True)
    stream = pair.us.open("10.0.0.7:80", (("baggage", "k8s.pod.name=web"),))
    pair.shuttle()
    headers = pair.told(events.RequestReceived)[0].headers
    assert [(n.decode(), v.decode()) for n, v in headers] == CONNECT
    pair.peer.send_headers(1, [(":status", "200")])
    stream.send(b"hello")
    stream.end()
    pair.shuttle()
    assert received(pair) == b"hello"
    assert pair.told(events.StreamEnded)
    pair.peer.send_data(1, b"bye", end_stream=True)
    pair.shuttle()
    assert pair.us.log[-4:] == [
        ("response", 1, ConnectResponse(200)),
        ("data", 1, b"bye"),
        ("end", 1, None),
        ("closed", 1, None),
    ]


@pytest.mark.parametrize("we_are_client", [True, False])
def test_settings_pings_and_goodbyes_are_understood(we_are_client):
    pair = Pair(we_are_client=we_are_client)
    assert pair.told(events.RemoteSettingsChanged)
    assert pair.told(events.SettingsAcknowledged)
    pair.us.tunnel.ping(b"12345678")
    pair.peer.ping(b"abcdefgh")
    pair.shuttle()
    assert ("pong", 0, b"12345678") in pair.us.log
    assert pair.told(events.PingAckReceived)[0].ping_data == b"abcdefgh"
    pair.us.tunnel.leave()
    pair.shuttle()
    assert pair.told(events.ConnectionTerminated)[0].error_code == ErrorCodes.NO_ERROR


def test_h2_padding_and_resets_are_understood():
    pair = Pair(we_are_client=False)
    pair.peer.send_headers(1, CONNECT)
    pair.peer.send_data(1, b"padded", pad_length=100)
    pair.peer.reset_stream(1, ErrorCodes.CANCEL)
    pair.shuttle()
    assert [entry[0] for entry in pair.us.log[-4:]] == ["request", "data", "closed", "failed"]
    pair.peer.send_headers(3, CONNECT)
    pair.shuttle()
    pair.us.tunnel.reset(pair.us.tunnel.streams[3], 2)
    pair.shuttle()
    assert pair.told(events.StreamReset)[-1].error_code == ErrorCodes.INTERNAL_ERROR
