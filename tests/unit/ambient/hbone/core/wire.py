"""A tunnel under test: what it tells and what it sends, recorded."""

from __future__ import annotations

from ambient.hbone.core.connect import ConnectRequest, ConnectResponse
from ambient.hbone.core.errors import PeerError
from ambient.hbone.core.frames import HEAD, PREFACE, Frame, frame, settings
from ambient.hbone.core.limits import CLIENT_LIMITS, SERVER_LIMITS
from ambient.hbone.core.tunnel import Tunnel


class RecordingSink:
    """The sink of one stream; keeps every byte uncredited unless ``generous``."""

    def __init__(self, stream, log, generous):
        self.stream = stream
        self.log = log
        self.generous = generous
        stream.sink = self

    def _say(self, kind, detail=None):
        self.log.append((kind, self.stream.id, detail))

    def responded(self, response):
        self._say("response", response)

    def data(self, view):
        last = self.log[-1] if self.log else None
        if last and last[:2] == ("data", self.stream.id):
            self.log[-1] = ("data", self.stream.id, last[2] + bytes(view))
        else:
            self._say("data", bytes(view))
        if self.generous:
            self.stream.credit(len(view))

    def ended(self):
        self._say("end")

    def failed(self, error):
        self._say("failed", (type(error).__name__, error.code, error.retryable))

    def writable(self):
        self._say("writable")


class Side:
    """One end, without a network. ``log`` has everything it was told, in order."""

    def __init__(self, *, client, generous=True, answer=True, limits=None):
        self.log = []
        self.generous = generous
        self.answer = answer
        self.tunnel = Tunnel(
            self, limits or (CLIENT_LIMITS if client else SERVER_LIMITS), client=client
        )
        self.tunnel.start()
        self.now_s = 0.0

    def settled(self):
        self.log.append(("settled", 0, None))

    def requested(self, stream):
        self.log.append(("request", stream.id, stream.request))
        RecordingSink(stream, self.log, self.generous)
        if self.answer:
            self.tunnel.respond(stream, ConnectResponse(200))

    def closed(self, stream):
        self.log.append(("closed", stream.id, None))

    def pong(self, payload):
        self.log.append(("pong", 0, payload))

    def going_away(self):
        self.log.append(("going away", 0, None))

    def feed(self, *pieces):
        """Returns the error that ended the connection, if any."""
        try:
            for piece in pieces:
                self.tunnel.receive(memoryview(bytes(piece)), self.now_s)
        except PeerError as error:
            self.log.append(("violation", 0, error.code))
            return error
        return None

    def open(self, authority="10.0.0.7:80", headers=()):
        stream = self.tunnel.open(ConnectRequest(authority, headers))
        RecordingSink(stream, self.log, self.generous)
        return stream

    def take(self):
        """What must be sent."""
        out = bytes(self.tunnel.out)
        self.tunnel.out.clear()
        return out

    def frames(self):
        """What must be sent, as (type, flags, stream, payload)."""
        return list(parse(self.take().removeprefix(PREFACE)))


def parse(data):
    while data:
        high, low, kind, flags, stream_id = HEAD.unpack_from(data)
        end = 9 + (high << 8 | low)
        yield Frame(kind), flags, stream_id, data[9:end]
        data = data[end:]


def connected(**options):
    """A client and a server that have exchanged their settings."""
    client, server = Side(client=True, **options), Side(client=False, **options)
    shuttle(client, server)
    client.log.clear()
    server.log.clear()
    return client, server


def shuttle(client, server):
    """Carry bytes both ways until both are silent."""
    while True:
        up, down = client.take(), server.take()
        if not up and not down:
            return
        assert server.feed(up) is None
        assert client.feed(down) is None


def handshaken_server(**options):
    """A server that has the preface and SETTINGS of a peer made of raw frames."""
    server = Side(client=False, **options)
    assert server.feed(PREFACE + settings({})) is None
    server.log.clear()
    server.take()
    return server


def handshaken_client(**options):
    """A client whose peer's frames are written by hand."""
    client = Side(client=True, **options)
    assert client.feed(settings({})) is None
    client.log.clear()
    client.take()
    return client


CONNECT_BLOCK = (
    b"\x02\x07CONNECT\x01\x0b10.0.0.7:80"  # :method and :authority as literals with indexed names
)


def connect_frame(stream_id, flags=0x4):
    return frame(Frame.HEADERS, flags, stream_id, CONNECT_BLOCK)
