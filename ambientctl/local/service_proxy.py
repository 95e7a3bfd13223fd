"""Keeps every node's service rules as the Services and EndpointSlices want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.resources import ENDPOINT_SLICES, SERVICES
from ambientctl.local.fabric import Node
from ambientctl.local.kube_api import Objects
from ambientctl.local.layout import CONTAINER_PATH
from ambientctl.local.runtime import ProcessSpec, Runtime
from ambientctl.local.service_rules import ruleset, service_ports

GATHER_S: Final = 0.02
"""Changes that come together, as when a Deployment starts, become one replacement."""


async def run(runtime: Runtime, nodes: Sequence[Node], objects: Objects) -> None:
    """Apply the rules on all nodes, at each change, for ever. Raises MeshError if nft refuses."""
    await objects.synced.wait()
    applied = ""
    while True:
        changed = objects.changed
        wanted = ruleset(
            service_ports(objects.all(SERVICES).values(), objects.all(ENDPOINT_SLICES).values())
        )
        if wanted != applied:
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(_apply, runtime, node, wanted)
            applied = wanted
        await changed.wait()
        await trio.sleep(GATHER_S)


async def _apply(runtime: Runtime, node: Node, rules: str) -> None:
    spec = ProcessSpec(argv=["nft", "-f", "-"], env={"PATH": CONTAINER_PATH}, join=node.enter())
    done = await runtime.run(spec, rules.encode())
    if done.code != 0:
        reason = done.err.decode(errors="replace").strip().splitlines()
        raise MeshError(
            f"nft refused the service rules of {node.layout.name}: {reason[0] if reason else ''}",
            hint="nftables 1.0 or newer is needed: apt-get install nftables",
        )
