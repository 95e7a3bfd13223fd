"""One pod's proxy: its listeners, its connections, its tunnels, all owned by one task."""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import Final, NamedTuple

import trio

from ambient.api.errors import MeshError
from ambient.api.ports import HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT
from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import Listener, listen_in
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ztunnel.io import inbound, outbound, plaintext
from ztunnel.io.accept import accept_for_ever
from ztunnel.io.node import Node, PodParts
from ztunnel.io.pods import PodStartError

PORTS: Final = (OUTBOUND_PORT, PLAINTEXT_PORT, HBONE_PORT)

log = get_logger("pod")
