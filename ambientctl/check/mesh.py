"""The mesh itself: control plane, node agents, tunnels, certificates, versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from ambient.api.errors import MeshError
from ambientctl.check.facts import Facts, named, of_kind
from ambientctl.check.result import Result, error, ok, warning
from ambientctl.ztunnel_config.dump import Dump

CONTROL, AGENTS, TUNNELS, CERTIFICATES = "control-plane", "cni", "ztunnel", "certificates"
NEAR_EXPIRY: Final = timedelta(hours=1)
"""A workload's certificate is renewed at half of its life, 12 h by default: with an hour left
nobody has renewed it for a long time."""


def installed(facts: Facts) -> bool:
    """Whether any part of the mesh is there."""
    return any(
        named(facts, kind, facts.system, name)
        for kind, name in (
            ("Deployment", "istiod"),
            ("DaemonSet", "ztunnel"),
            ("DaemonSet", "istio-cni-node"),
        )
    )


def control_plane(facts: Facts) -> Iterator[Result]:
    """Replicas, and whether they answer."""
    found = named(facts, "Deployment", facts.system, "istiod")
    if found is None:
        text = f"there is no Deployment {facts.system}/istiod"
        yield error(CONTROL, "deployment", text, "ambientctl install")
        return
    wanted = int((found.get("spec") or {}).get("replicas") or 0)
    ready = int((found.get("status") or {}).get("readyReplicas") or 0)
    look = f"kubectl -n {facts.system} describe pods -l app=istiod"
    if ready == 0:
        text = f"none of {wanted} replicas is ready: new pods get no certificate"
        yield error(CONTROL, "replicas", text, look)
    elif ready < wanted:
        yield warning(CONTROL, "replicas", f"{ready} of {wanted} replicas are ready", look)
    else:
        yield ok(CONTROL, "replicas", f"{ready} of {wanted} are ready")
    if wanted == 1 and len(of_kind(facts, "Node")) > 1:
        text = "one replica: while it restarts, new pods wait for certificates"
        now = f"kubectl -n {facts.system} scale deployment/istiod --replicas=2"
        keep = "to keep it: ambientctl upgrade --set istiod.replicas=2"
        yield warning(CONTROL, "availability", text, f"{now}; {keep}")
    for pod, told in sorted(facts.istiods.items()):
        if isinstance(told, MeshError):
            yield error(CONTROL, "answers", str(told), told.hint or look)
        elif "away" in told:
            yield warning(CONTROL, "answers", f"{pod}: {told}", "look at the API server")
    yield from _webhook(facts)


def _webhook(facts: Facts) -> Iterator[Result]:
    hooks = [
        one
        for one in of_kind(facts, "ValidatingWebhookConfiguration")
        if "istio-validator" in one["metadata"]["name"]
    ]
    if not hooks:
        text = "mistakes in policies are not refused when they are applied"
        yield warning(CONTROL, "webhook", text, "kubectl apply -f manifests/base/webhook.yaml")
        return
    bare = [
        one["metadata"]["name"]
        for one in hooks
        if not all((w.get("clientConfig") or {}).get("caBundle") for w in one.get("webhooks") or ())
    ]
    if bare:
        text = f"{', '.join(bare)} has no CA bundle (yet)"
        yield warning(CONTROL, "webhook", text, "is a replica of the control plane the leader?")
    else:
        yield ok(CONTROL, "webhook", "checks what is applied")


def daemon_sets(facts: Facts) -> Iterator[Result]:
    """Node agents and tunnels: one on every node, ready."""
    for category, name, effect in (
        (AGENTS, "istio-cni-node", "pods of the mesh wait to start there"),
        (TUNNELS, "ztunnel", "pods of the mesh have no traffic there"),
    ):
        found = named(facts, "DaemonSet", facts.system, name)
        look = f"kubectl -n {facts.system} get pods -o wide | grep {name}"
        if found is None:
            text = f"there is no DaemonSet {facts.system}/{name}"
            yield error(category, "daemonset", text, "ambientctl install")
            continue
        status: Mapping[str, Any] = found.get("status") or {}
        wanted = int(status.get("desiredNumberScheduled") or 0)
        ready = int(status.get("numberReady") or 0)
        if wanted == 0:
            text = f"{name} is wanted on no node"
            yield error(category, "daemonset", text, "look at its nodeSelector and tolerations")
        elif ready < wanted:
            where = ", ".join(_nodes_without(facts, name)) or "unknown"
            text = f"{ready} of {wanted} are ready; missing on {where}: {effect}"
            yield error(category, "daemonset", text, look)
        else:
            yield ok(category, "daemonset", f"{ready} of {wanted} are ready")
    for pod, told in sorted(facts.agents.items()):
        if isinstance(told, MeshError):
            where = facts.nodes_of.get(pod, "")
            text = f"the agent on {where} is not ready: {told}"
            yield error(AGENTS, "agent", text, f"kubectl -n {facts.system} logs {pod}")


def _nodes_without(facts: Facts, name: str) -> list[str]:
    """Nodes on which no pod of the DaemonSet is ready."""
    every = {one["metadata"]["name"] for one in of_kind(facts, "Node")}
    label = {"ztunnel": ("app", "ztunnel"), "istio-cni-node": ("k8s-app", "istio-cni-node")}[name]
    for pod in of_kind(facts, "Pod"):
        if (pod["metadata"].get("labels") or {}).get(label[0]) != label[1]:
            continue
        conditions = (pod.get("status") or {}).get("conditions") or ()
        if any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions):
            every.discard((pod.get("spec") or {}).get("nodeName"))
    return sorted(every)


def tunnels(facts: Facts) -> Iterator[Result]:
    """Whether each tunnel answers and has what the control plane has for it."""
    for _, told in sorted(facts.tunnels.items()):
        if isinstance(told, MeshError):
            yield error(TUNNELS, "answers", str(told), told.hint)
    if isinstance(facts.proxies, MeshError):
        text = f"the control plane does not tell which proxies it has: {facts.proxies}"
        yield error(TUNNELS, "connected", text, facts.proxies.hint)
        return
    connected = {one.name.partition(".")[0] for one in facts.proxies}
    lost = sorted(set(facts.tunnels) - connected)
    if lost:
        text = f"not connected to the control plane: {', '.join(lost)}"
        remedy = f"kubectl -n {facts.system} logs {lost[0]}; does a NetworkPolicy close 15012?"
        yield error(TUNNELS, "connected", text, remedy)
    elif facts.tunnels:
        yield ok(TUNNELS, "connected", f"all {len(facts.tunnels)} to the control plane")
    refused = [
        f"{one.name}: {resource['lastError']}"
        for one in facts.proxies
        for resource in one.resources.values()
        if resource.get("lastError")
    ]
    if refused:
        yield error(TUNNELS, "synced", "; ".join(refused), "ambientctl proxy-status")
    versions = {one.version for one in facts.proxies if one.version}
    if len(versions) > 1:
        text = f"proxies of several versions: {', '.join(sorted(versions))}"
        yield warning(TUNNELS, "versions", text, "ambientctl version; finish the upgrade")


def certificates(facts: Facts) -> Iterator[Result]:
    """Certificates that tunnels hold for the pods of their nodes."""
    good, told = 0, False
    for pod, dump in sorted(facts.tunnels.items()):
        if not isinstance(dump, Dump):
            continue
        for one in dump.certificates:
            problem = _certificate(one, facts, pod)
            if problem is None:
                good += 1
                continue
            told = True
            text, remedy = problem
            yield error(
                CERTIFICATES, "workloads", f"{one.get('identity')} at {pod}: {text}", remedy
            )
    if good and not told:
        yield ok(CERTIFICATES, "workloads", f"all {good} are valid")


def _certificate(one: Mapping[str, Any], facts: Facts, tunnel: str) -> tuple[str, str] | None:
    """What is wrong with a certificate, and what to do."""
    state = str(one.get("state", ""))
    logs = f"kubectl -n {facts.system} logs -l app=istiod --tail 50 | grep csr"
    if state.startswith("Unavailable"):
        return f"was not issued: {state.partition(': ')[2] or 'no reason'}", logs
    chain = one.get("certChain") or []
    if not chain:
        return None  # being fetched
    now = facts.now_at(tunnel)
    ends, begins = _moment(chain[0].get("expirationTime")), _moment(chain[0].get("validFrom"))
    if ends is not None and ends <= now:
        why = f" ({one['lastError']})" if one.get("lastError") else ""
        return f"expired at {ends:%Y-%m-%d %H:%M}{why}", logs
    if begins is not None and begins > now:
        return f"is not valid before {begins:%H:%M:%S}: clocks differ", "ambientctl check: clocks"
    if ends is not None and ends - now < NEAR_EXPIRY and one.get("lastError"):
        return f"ends at {ends:%H:%M} and is not renewed: {one['lastError']}", logs
    return None


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
