"""The HTTP/2 connection that carries CONNECT streams, as client or server, without any I/O.

News goes to a ``TunnelListener`` and to each stream's ``Sink``; the rest is ``Streams``.
"""

from __future__ import annotations

from typing import Final, Protocol

from ambient.hbone.core.connect import (
    ConnectRequest,
    ConnectResponse,
    MalformedHeadError,
    check_trailers,
    parse_request,
    parse_response,
    request_fields,
    response_fields,
)
from ambient.hbone.core.errors import HboneStreamError, ProtocolError
from ambient.hbone.core.frames import ErrorCode
from ambient.hbone.core.header_block import encode
from ambient.hbone.core.limits import Limits
from ambient.hbone.core.stream import Stream
from ambient.hbone.core.streams import LinkListener, Streams

NOT_CONNECT: Final = ConnectResponse(400)
"""The answer to a request that is no plain CONNECT (ztunnel)."""


class TunnelListener(LinkListener, Protocol):
    """Who is told about the connection and its streams."""

    def requested(self, stream: Stream) -> None:
        """A CONNECT arrived (server). Set ``stream.sink`` now; answer with ``respond``."""

    def closed(self, stream: Stream) -> None:
        """The stream ended in both directions, in whatever way."""


class Tunnel(Streams[Stream]):
    """One connection. Raises PeerError from ``receive``; the GOAWAY is then in ``out``."""

    def __init__(self, listener: TunnelListener, limits: Limits, *, client: bool) -> None:
        super().__init__(listener, limits, client=client)
        self._listener = listener

    def closed(self, stream: Stream) -> None:
        """See ``Streams``."""
        self._listener.closed(stream)

    def open(self, request: ConnectRequest) -> Stream:
        """Send a CONNECT (client; only while ``room`` > 0). The caller sets the stream's sink."""
        stream = Stream(self, self._take_id(), request)
        self.streams[stream.id] = stream
        self._send_headers(stream, encode(request_fields(request)), end_stream=False)
        return stream

    def respond(self, stream: Stream, response: ConnectResponse) -> None:
        """Answer a CONNECT (server, once). Anything but 200 ends the stream."""
        if stream.local_ended:
            return  # reset meanwhile
        assert not stream.answered
        stream.answered = True
        refused = response.status != 200
        self._send_headers(stream, encode(response_fields(response)), end_stream=refused)
        if refused:
            stream.local_ended = True
            self.reset(stream, ErrorCode.NO_ERROR)

    def headers(self, stream_id: int, block: bytes, *, end_stream: bool) -> None:
        """A header block: a request, an answer or trailers."""
        if not self.settled:
            raise ProtocolError("the first frame is not SETTINGS")
        fields = self.decode(block)
        stream = self.streams.get(stream_id)
        try:
            if stream is None:
                self._new_request(stream_id, fields, end_stream=end_stream)
            elif self.client and not stream.answered:
                self._response(stream, fields, end_stream=end_stream)
            else:
                check_trailers(fields)
                if not end_stream:
                    raise MalformedHeadError("trailers without END_STREAM")
                self.data_ends(stream_id)
        except MalformedHeadError as error:
            code = ErrorCode.PROTOCOL_ERROR
            if stream is None:
                self.blame_id(stream_id, code)
            else:
                self.blame(stream, HboneStreamError(f"malformed headers: {error}", code))

    def _new_request(
        self, stream_id: int, fields: list[tuple[bytes, bytes]], *, end_stream: bool
    ) -> None:
        if not self._admit(stream_id):
            return
        request = parse_request(fields)
        stream = Stream(self, stream_id, request or ConnectRequest(""))
        stream.remote_ended = end_stream
        self.streams[stream_id] = stream
        if request is None:
            self.respond(stream, NOT_CONNECT)
        else:
            self._listener.requested(stream)

    def _response(
        self, stream: Stream, fields: list[tuple[bytes, bytes]], *, end_stream: bool
    ) -> None:
        response = parse_response(fields)
        if response.status < 200:
            if end_stream:
                raise MalformedHeadError("an interim answer that ends the stream")
            return
        stream.answered = True
        stream.sink.responded(response)
        if end_stream:
            self.data_ends(stream.id)
