"""``POST /probe``: can this pod reach the tunnels of others? Asked by ``ambientctl check``.

A connection to port 15008 is made from inside the pod's network namespace, marked as our own
traffic is, with the pod's certificate, and closed again. So it meets what every connection of the
pod meets: NetworkPolicies of its namespace and of the other one, firewalls between nodes, clocks,
certificates. No request is sent on it, and no application hears of it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec
import trio

from ambient.api.address import HostPort, IPAddress, NetworkAddress, parse_ip
from ambient.api.errors import MeshError
from ambient.api.ports import HBONE_PORT
from ambient.api.spiffe import Identity
from ambient.api.workload import Workload
from ambient.hbone.io.client import Allowed, connect
from ambient.net.io.sockets import connect_in
from ztunnel.io.node import Node
from ztunnel.io.pod_identity import PodIdentity
from ztunnel.io.pods import PodProxy

CONNECT_S: Final = 2.0
"""A peer on the same continent answers within 0.2 s, and 1 s later a lost SYN is repeated
(RFC 6298)."""
WHOLE_S: Final = 4.0
"""With handshake; below the 5 s for which a supervisor waits for its workers."""
MAX_TARGETS: Final = 64
"""Of one request."""


class Stage(StrEnum):
    """How far a probe came."""

    IDENTITY = "identity"
    """Our own pod is not known, or has no certificate."""
    CONNECT = "connect"
    """No TCP connection."""
    HANDSHAKE = "handshake"
    """TLS, or who is at the other end."""
    DONE = "done"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One answer; ``error`` and ``hint`` are empty where the probe is done."""

    to: str
    stage: Stage
    error: str = ""
    hint: str = ""
    seconds: float = 0.0


async def probe(node: Node, pod: PodProxy, targets: list[IPAddress]) -> list[Probe]:
    """Reach for each address at once; answers in the order of the targets."""
    found: dict[IPAddress, Probe] = {}

    async def one(ip: IPAddress) -> None:
        found[ip] = await _reach(node, pod, ip)

    async with trio.open_nursery() as nursery:
        for ip in targets:
            nursery.start_soon(one, ip)
    return [found[ip] for ip in targets]


async def _reach(node: Node, pod: PodProxy, ip: IPAddress) -> Probe:
    began = trio.current_time()
    stage = Stage.IDENTITY

    def answer(error: str = "", hint: str = "") -> Probe:
        seconds = round(trio.current_time() - began, 4)
        return Probe(to=str(ip), stage=stage, error=error, hint=hint, seconds=seconds)

    try:
        with trio.fail_after(WHOLE_S):
            identity = PodIdentity(node.view, pod.info, pod.netns)
            workload = await identity.workload()
            tls = await node.certs.client_context(workload.identity)
            stage = Stage.CONNECT
            sock = await connect_in(
                pod.netns, HostPort(str(ip), HBONE_PORT), mark=node.settings.mark,
                timeout_s=CONNECT_S,
            )  # fmt: skip
            stage = Stage.HANDSHAKE
            connection = await connect(node.relay, sock, tls, _expected(node, workload, ip))
            connection.leave()
            stage = Stage.DONE
    except trio.TooSlowError:
        return answer(f"nothing came of it within {WHOLE_S:g} s")
    except MeshError as error:
        return answer(str(error), error.hint)
    except OSError as error:
        return answer(error.strerror or str(error))
    return answer()


def _expected(node: Node, workload: Workload, ip: IPAddress) -> Allowed:
    """Who has to answer there; anybody where the control plane knows nobody of this address."""
    known = node.view.state.workload_by_address(NetworkAddress(workload.network, ip))
    return {known.identity} if known is not None else _anybody


def _anybody(_: Identity) -> bool:
    return True


def read_targets(text: str) -> list[IPAddress]:
    """Addresses with commas between them, each once. Raises ValueError."""
    found: dict[IPAddress, None] = {}
    for part in text.split(","):
        ip = parse_ip(part)
        if ip is None:
            raise ValueError(f"{part!r} is no IP address")
        found[ip] = None
    if len(found) > MAX_TARGETS:
        raise ValueError(f"{len(found)} addresses, at most {MAX_TARGETS} at once")
    return list(found)
