"""One CONNECT stream."""

from __future__ import annotations

from typing import Protocol

from ambient.hbone.core.connect import ConnectRequest, ConnectResponse
from ambient.hbone.core.flow import Carrier, DataSink, FlowStream


class Sink(DataSink, Protocol):
    """Who takes what arrives on a stream; see ``DataSink``."""

    def responded(self, response: ConnectResponse) -> None:
        """The peer answered our CONNECT (client side only, once)."""


class Stream(FlowStream):
    """Made by ``Tunnel``; the shell sets ``sink`` and may exchange it between two calls."""

    __slots__ = ("request",)

    sink: Sink

    def __init__(self, tunnel: Carrier, stream_id: int, request: ConnectRequest) -> None:
        super().__init__(tunnel, stream_id)
        self.request = request
