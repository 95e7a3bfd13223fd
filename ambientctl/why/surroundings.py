"""What decides beside the mesh: labels that bring pods into it, waypoints that are asked for in
vain, and the cluster's own NetworkPolicies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from ambient.api.service import Service
from ambient.api.workload import Workload
from ambient.kube.core import objects
from ambient.kube.core.objects import (
    AMBIENT_MODE_LABEL,
    REDIRECTION_ANNOTATION,
    PeerAuthentication,
)
from ambient.kube.core.resources import KubeObject
from ambientctl.network_policies import Closed, Pod, closed, pod_of
from cni_plugin.core.enrol import Exclusions, Reason, decide
from istiod_lite.core.analysis.corpus import EXCLUDED
from istiod_lite.core.facts import MeshFacts, ObjectKey, ObjectRef
from istiod_lite.core.peer_authentication import CONVERTED_PREFIX, STATIC_STRICT, deciding
from istiod_lite.core.waypoints import Reason as BindingReason
from istiod_lite.core.world import World

SYSTEM: Final = MeshFacts().root_namespace
_REMEDIES: Final = {
    Reason.NOT_LABELLED: "kubectl label namespace {namespace} {label}=ambient",
    Reason.POD_OUT: "kubectl label pod {name} -n {namespace} {label}- (in its template, too)",
    Reason.SIDECAR: "ambientctl migrate plan -n {namespace}",
}


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something on the way that is perhaps not meant, and what would change it."""

    text: str
    remedy: str = ""


class Surroundings(NamedTuple):
    """Raw objects by namespace and name, and who is bound to which waypoint."""

    pods: Mapping[tuple[str, str], KubeObject] = {}
    namespaces: Mapping[tuple[str, str], KubeObject] = {}
    policies: tuple[KubeObject, ...] = ()
    peer_authentications: tuple[KubeObject, ...] = ()
    world: World | None = None

    def closed(self, client: Workload, server: Workload | None, port: int) -> Closed | None:
        """The NetworkPolicies that let no connection through; None where it passes."""
        if not self.policies:
            return None
        there = self._pod(server) if server is not None else Pod()
        return closed(self.policies, self._pod(client), there, port)

    def author(self, workload: Workload, policy: str) -> str:
        """The object behind a policy of a node tunnel (``namespace/name``), with its kind.

        Tunnels know a PeerAuthentication by the policy that the control plane makes of it.
        """
        namespace, _, name = policy.partition("/")
        if name.startswith(CONVERTED_PREFIX):
            return f"PeerAuthentication {namespace}/{name.removeprefix(CONVERTED_PREFIX)}"
        if name != STATIC_STRICT:
            return f"AuthorizationPolicy {policy}" if policy else ""
        decoded = (objects.decode(one, PeerAuthentication) for one in self.peer_authentications)
        found = deciding(decoded, workload.namespace, dict(workload.labels), namespace)
        if found is None:
            return policy
        return f"PeerAuthentication {found.metadata.namespace}/{found.metadata.name}"

    def _pod(self, workload: Workload) -> Pod:
        found = self.pods.get((workload.namespace, workload.name))
        if found is not None:
            return pod_of(found, self.namespaces.get(("", workload.namespace)))
        return Pod(ips=tuple(map(str, workload.addresses)))

    def outside(self, workload: Workload, system: str) -> Note | None:
        """Why a pod is not captured; None for what is no pod."""
        found = self.pods.get((workload.namespace, workload.name))
        if found is None:
            return None
        namespace = self.namespaces.get(("", workload.namespace))
        pod = objects.decode(found, objects.Pod)
        typed = objects.decode(namespace, objects.Namespace) if namespace is not None else None
        reason = decide(pod, typed, Exclusions(EXCLUDED, system))
        name = f"{workload.namespace}/{workload.name}"
        if reason.wanted:
            if pod.metadata.annotation(REDIRECTION_ANNOTATION) == "enabled":
                return None
            node = pod.spec.node_name or "its node"
            return Note(
                text=f"{name} has the label, but {node} has not captured it",
                remedy=f"kubectl -n {system} get pods -l k8s-app=istio-cni-node "
                f"--field-selector spec.nodeName={node}; ambientctl check",
            )
        remedy = _REMEDIES.get(reason, "").format(
            namespace=workload.namespace, name=workload.name, label=AMBIENT_MODE_LABEL
        )
        return Note(text=f"{name}: {reason}", remedy=remedy)

    def past_waypoint(self, service: Service | None, workload: Workload | None) -> Note | None:
        """The waypoint that the destination asks for without being bound to it."""
        if self.world is None:
            return None
        if service is not None:
            ref = self.world.hosts.winner(service.namespace, service.hostname)
        elif workload is not None:
            ref = ObjectRef("Pod", ObjectKey(workload.namespace, workload.name))
        else:
            return None
        if ref is None:
            return None
        binding = self.world.bindings.get(ref)
        if binding.gateway is None or binding.accepted:
            return None
        if binding.inherited and binding.reason is BindingReason.OTHER_TRAFFIC:
            return None  # a namespace's waypoint need not be for everything in it
        where, name = binding.gateway
        text = (
            f"{ref} asks for waypoint {where}/{name}, and traffic goes past it "
            f"({binding.reason.value}): rules about HTTP do not apply"
        )
        remedy = f"ambientctl waypoint apply -n {where} --name {name}; ambientctl waypoint status"
        return Note(text=text, remedy=f"{remedy} -n {where}")


def surroundings_of(found: Mapping[str, Iterable[KubeObject]], world: World | None) -> Surroundings:
    """Of objects by kind."""

    def named(kind: str) -> dict[tuple[str, str], KubeObject]:
        return {
            (one["metadata"].get("namespace", ""), one["metadata"]["name"]): one
            for one in found.get(kind, ())
        }

    return Surroundings(
        named("Pod"),
        named("Namespace"),
        tuple(found.get("NetworkPolicy", ())),
        tuple(found.get("PeerAuthentication", ())),
        world,
    )
