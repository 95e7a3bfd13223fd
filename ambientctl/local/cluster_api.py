"""The embedded API server and its controllers, started and joined to the mesh."""

from __future__ import annotations

import datetime
import secrets
import uuid
from ipaddress import IPv4Network

import trio

from ambientctl.local.apiserver.core.cluster import Cluster, Surroundings
from ambientctl.local.apiserver.core.tokens import TokenAuthority
from ambientctl.local.direct_api import DirectApi
from ambientctl.local.layout import SERVICE_RANGE, MeshConfig
from ambientctl.local.state_folder import StateFolder


class ClusterApi:
    def __init__(self) -> None:
        alpha = "bcdfghjklmnpqrstvwxz2456789"
        self.cluster = Cluster(
            Surroundings(
                lambda: datetime.datetime.now(datetime.UTC),
                lambda: str(uuid.uuid4()),
                lambda n: "".join(secrets.choice(alpha) for _ in range(n)),
            ),
            IPv4Network(SERVICE_RANGE),
        )
        self.tokens = TokenAuthority(self.cluster.store, "https://kubernetes.default.svc")

    @classmethod
    async def start(
        cls, nursery: trio.Nursery, config: MeshConfig, folder: StateFolder
    ) -> ClusterApi:
        await trio.lowlevel.checkpoint()
        self = cls()
        await self.direct("x").apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
        )
        return self

    def direct(self, manager: str) -> DirectApi:
        return DirectApi(self.cluster, self.tokens, manager)
