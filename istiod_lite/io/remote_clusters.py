"""Other clusters of the mesh: their Secrets, and a watch on each of them.

A Secret of the system namespace labelled ``istio/multiCluster=true`` holds kubeconfigs by cluster
id (``istioctl create-remote-secret``).
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import trio

from ambient.api.errors import MeshError
from ambient.kube.core import resources
from ambient.kube.core.resources import KubeObject
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.credentials import credentials_in
from ambient.kube.io.watch import follow
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core.changes import Changes
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.federation import Federation
from istiod_lite.core.index import Index
from istiod_lite.core.inputs import key_of
from istiod_lite.io.debounce import Debounce
from istiod_lite.io.metrics import Metrics
from istiod_lite.io.watches import Watches

LABEL: Final = "istio/multiCluster"
WATCHED: Final = (
    resources.NAMESPACES,
    resources.NODES,
    resources.GATEWAY_CLASSES,
    resources.GATEWAYS,
    resources.SERVICES,
    resources.ENDPOINT_SLICES,
    resources.PODS,
)
"""What another cluster has to say; policies and routes are those of our own."""
SYNCED, SYNCING, TIMED_OUT, REFUSED = "synced", "syncing", "timeout", "refused"

log = get_logger("clusters")


class Debouncing(NamedTuple):
    """As for our own cluster, in seconds."""

    quiet_s: float
    longest_s: float


class Cluster:
    """One other cluster."""

    def __init__(self, secret: str, kubeconfig: str) -> None:
        self.secret = secret
        self.kubeconfig = kubeconfig
        self.status = SYNCING
        self.settled = trio.Event()
        """Synced, or known not to become so."""
        self.scope = trio.CancelScope()


class RemoteClusters:
    """Follows the Secrets; ``publish`` gets what changes for our clients."""

    def __init__(
        self,
        kube: KubeClient,
        federation: Federation,
        facts: MeshFacts,
        publish: Callable[[Changes, float], None],
        metrics: Metrics,
        debouncing: Debouncing,
    ) -> None:
        self._kube = kube
        self._federation = federation
        self._facts = facts
        self._publish = publish
        self._metrics = metrics
        self._debouncing = debouncing
        self.known: dict[str, Cluster] = {}
        """By cluster id."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started once the Secrets are listed; then until cancelled."""
        self._metrics.managed_clusters.labels("local").set(1)
        events = follow(
            self._kube,
            resources.SECRETS,
            namespace=self._facts.root_namespace,
            label_selector=f"{LABEL}=true",
        )
        async with trio.open_nursery() as nursery, events:
            async for event in events:
                if event.kind is EventKind.SYNCED:
                    task_status.started()
                    continue
                self._look(nursery, event.object, gone=event.kind is EventKind.DELETED)

    async def until_settled(self, limit_s: float) -> None:
        """Wait until each known cluster is synced, so that no client takes the endpoints of one
        that is not for gone; whoever does not come in time is named and served later.
        """
        with trio.move_on_after(limit_s):
            for one in list(self.known.values()):
                await one.settled.wait()
        for name, one in self.known.items():
            if one.status == SYNCING:
                self._metrics.cluster_timeouts.inc()
                self._say(name, one, TIMED_OUT, f"not synced within {limit_s:g} s")

    def page(self) -> list[dict[str, str]]:
        """As ``istioctl remote-clusters`` shows them."""
        return [
            {"id": name, "secretName": one.secret, "syncStatus": one.status}
            for name, one in sorted(self.known.items())
        ]

    def _look(self, nursery: trio.Nursery, secret: KubeObject, *, gone: bool) -> None:
        key = str(key_of(secret))
        # Whatever the server sends: other Secrets hold keys, and are no kubeconfigs.
        meant = (secret["metadata"].get("labels") or {}).get(LABEL) == "true"
        wanted = _kubeconfigs(secret) if meant and not gone else {}
        for name, one in list(self.known.items()):
            if one.secret == key and wanted.get(name) != one.kubeconfig:
                self._metrics.secret_events.labels("update" if name in wanted else "delete").inc()
                self._forget(name)
        for name, kubeconfig in wanted.items():
            known = self.known.get(name)
            if known is not None and known.secret == key:
                continue
            one = Cluster(key, kubeconfig)
            if name == self._facts.cluster_id or known is not None:
                self._metrics.cluster_syncs.labels(name, REFUSED).set(1)
                log.error(Event.CLUSTER_STATUS, cluster=name, secret=key, status=REFUSED,
                          reason="another cluster has this id")  # fmt: skip
                continue
            self._metrics.secret_events.labels("add").inc()
            self.known[name] = one
            self._say(name, one, SYNCING)
            nursery.start_soon(self._serve, name, one)
        self._metrics.managed_clusters.labels("remote").set(len(self.known))

    def _forget(self, name: str) -> None:
        one = self.known.pop(name)
        one.scope.cancel(reason="its Secret has changed")
        one.settled.set()
        self._metrics.cluster_syncs.remove(name, one.status)
        log.info(Event.CLUSTER_STATUS, cluster=name, secret=one.secret, status="closed")
        self._publish(self._federation.leave(name), time.monotonic())

    async def _serve(self, name: str, one: Cluster) -> None:
        with one.scope:
            try:
                credentials = await trio.to_thread.run_sync(
                    credentials_in, one.kubeconfig, f"Secret {one.secret}"
                )
                async with KubeClient.using(credentials) as kube:
                    await self._watch(name, one, kube)
            except MeshError as error:
                self._say(name, one, REFUSED, str(error))
                one.settled.set()

    async def _watch(self, name: str, one: Cluster, kube: KubeClient) -> None:
        facts = self._facts
        index = Index(
            MeshFacts(
                cluster_id=name,
                trust_domain=facts.trust_domain,
                root_namespace=facts.root_namespace,
                cluster_domain=facts.cluster_domain,
                allow_waypoints=False,
                allocate_addresses=False,
            )
        )

        def publish(changes: Changes, first: float) -> None:
            if one.status == SYNCED:
                changes = self._federation.changed(name, changes)
            else:
                changes = self._federation.join(name, index)
                self._say(name, one, SYNCED)
            self._publish(changes, first)

        watches = Watches(
            kube,
            index,
            publish,
            Debounce(*self._debouncing),
            watched=WATCHED,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(watches.run)
            one.settled.set()

    def _say(self, name: str, one: Cluster, status: str, reason: str = "") -> None:
        if one.status != status:
            self._metrics.cluster_syncs.remove(name, one.status)
        one.status = status
        self._metrics.cluster_syncs.labels(name, status).set(1)
        told = log.info if status in (SYNCED, SYNCING) else log.error
        told(Event.CLUSTER_STATUS, cluster=name, secret=one.secret, status=status, reason=reason)


def _kubeconfigs(secret: Any) -> dict[str, str]:
    """By cluster id; what is no text is kept as such, and refused when it is read."""
    found = {}
    for name, value in (secret.get("data") or {}).items():
        try:
            found[name] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            found[name] = ""
    return found
