"""A node tunnel inside the test process: the real pods and listeners, a state that the test sets.

The control plane is replaced by ``know``, the certificate authority signs in-process, and the node
agent by ``enrol`` and ``leave``; everything between the sockets is the product's.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from ipaddress import ip_address

import trio

from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.api.workload import TunnelProtocol, Workload
from ambient.hbone.io.relay import Relay
from ambient.identity.io.cert_store import CertStore
from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from ambient.state.core.mesh import MeshState
from ambient.telemetry.core.readiness import Readiness
from ambient.telemetry.io import logs
from ambient.telemetry.io.metrics_http import TrafficMetrics
from tests.fakes.ca_server import Authority
from tests.netns import backends
from ztunnel.io.connections import Connections
from ztunnel.io.mesh_view import MeshView
from ztunnel.io.node import IdentityUse, Node
from ztunnel.io.pod import Pod as PodProxy
from ztunnel.io.pods import Pods
from ztunnel.settings import Settings


class LocalCa:
    """Signs whatever it is asked for."""

    def __init__(self):
        self.authority = Authority()

    async def sign(self, identity, csr_pem, *, impersonate, ttl_s):
        await trio.lowlevel.checkpoint()
        return self.authority.sign_csr(csr_pem, identity)


class Tunnel:
    """One tunnel; ``ca`` may be shared with another one to make two nodes of one mesh."""

    def __init__(self, ca=None, **settings):
        self.ca = ca or LocalCa()
        self.settings = Settings(**settings)
        view = MeshView(MeshState(), self.settings.network)
        metrics = self.metrics = TrafficMetrics()
        certs = CertStore(self.ca, impersonate=True)
        self.node = Node(
            settings=self.settings,
            view=view,
            certs=certs,
            identities=IdentityUse(certs),
            relay=Relay(),
            connections=Connections(view, metrics),
            metrics=metrics,
        )
        self.pods = Pods(
            lambda info, netns: PodProxy(self.node, info, netns),
            Readiness([]),
            self.settings.drain_s,
        )

    async def run(self, *, task_status):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.node.certs.run)
            await nursery.start(self.node.relay.run)
            await nursery.start(self.pods.run)
            self.pods.begin_session()
            self.pods.snapshot_sent()
            task_status.started()
            await trio.sleep_forever()

    def know(self, *things, forget=()):
        """The control plane tells about workloads, services and policies."""
        for thing in things:
            kind = ADDRESS_TYPE if hasattr(thing, "addresses") else AUTHORIZATION_TYPE
            self._apply(kind, {"": thing}, ())
        for name in forget:
            self._apply(AUTHORIZATION_TYPE, {}, (name,))

    def _apply(self, kind, changed, removed):
        self.node.view.state.apply(kind, changed, removed)
        self.node.view.notify()
        self.node.connections.judge_again()

    async def enrol(self, pod, **more):
        """The pod joins: the control plane knows it, its rules are set, its proxy listens."""
        self.know(workload(pod, **more))
        await self.serve(pod)
        backends.enrol(pod.netns)

    async def serve(self, pod):
        """Only the listeners."""
        info = Add(pod.name, pod.name, "shop", pod.name)
        await self.pods.add(info, Netns.open(f"/proc/self/fd/{pod.netns.fd}"))

    def leave(self, pod):
        """The pod leaves: first the redirects go, then the tunnel is told."""
        backends.drain(pod.netns)
        self.pods.delete(pod.name)


def workload(pod, *, hbone=True, **more):
    """The pod as the control plane describes it; its service account has the pod's name."""
    return Workload(
        uid=f"Kubernetes//Pod/shop/{pod.name}",
        name=pod.name,
        namespace="shop",
        service_account=pod.name,
        canonical_name=pod.name,
        workload_name=pod.name,
        cluster_id="Kubernetes",
        addresses=(ip_address(pod.ip), ip_address(pod.ip6)),
        tunnel_protocol=TunnelProtocol.HBONE if hbone else TunnelProtocol.NONE,
        **more,
    )


@asynccontextmanager
async def running(*tunnels):
    """The tunnels work for the length of the block; yields a nursery for the test's servers."""
    async with trio.open_nursery() as nursery:
        for tunnel in tunnels:
            await nursery.start(tunnel.run)
        yield nursery
        nursery.cancel_scope.cancel()


class AccessLog:
    """The access log lines that the process wrote, as dicts."""

    def __init__(self, stream):
        self._stream = stream

    def events(self, message):
        """Lines of any scope."""
        records = [json.loads(line) for line in self._stream.getvalue().splitlines()]
        return [record for record in records if record["message"] == message]

    def lines(self, message="connection complete"):
        return [record for record in self.events(message) if record["scope"] == "access"]

    @staticmethod
    def errors(direction, lines):
        """The failed ones of one direction."""
        return [line for line in lines if line["direction"] == direction and "error" in line]

    async def wait(self, count=1, message="connection complete"):
        """At least ``count`` lines, once they are there."""
        with trio.fail_after(30):
            while len(found := self.lines(message)) < count:
                await trio.sleep(0.005)
        return found


def capture_log(stream):
    logs.configure("info", json=True, stream=stream)
    return AccessLog(stream)
