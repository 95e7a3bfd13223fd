"""The cluster under the mesh: server, permissions, definitions, nodes, clocks, network plugin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from ambientctl.check.clocks import MAX_SKEW
from ambientctl.check.facts import Facts, named, of_kind
from ambientctl.check.result import Result, error, ok, skipped, warning
from istiod_lite.core.analysis.definitions import GATEWAY_API, GATEWAY_VERSION, MESH

MIN_KUBERNETES: Final = (1, 27)
"""docs/install.md."""
MIN_KERNEL: Final = (5, 4)
"""docs/install.md: nftables sets and maps that the rules use."""
LEASE_LATE: Final = timedelta(seconds=60)
"""Kubelets renew every 10 s; a node is lost after 40 s (Kubernetes' defaults)."""
KUBERNETES, GATEWAYS, NODES, PLUGIN = "kubernetes", "gateway-api", "nodes", "network-plugin"


def kubernetes(facts: Facts, *, before: bool) -> Iterator[Result]:
    """The API server and what we may do there."""
    found = _version(facts.server_version)
    if found is None:
        yield warning(KUBERNETES, "version", f"{facts.server} does not tell its version",
                      "is the address right in the kubeconfig?")  # fmt: skip
    elif found < MIN_KUBERNETES:
        least = ".".join(map(str, MIN_KUBERNETES))
        text = f"{facts.server_version} is older than {least}"
        yield error(KUBERNETES, "version", text, f"upgrade Kubernetes to {least} or later")
    else:
        yield ok(KUBERNETES, "version", f"{facts.server_version} at {facts.server}")
    if facts.server_time is not None:
        yield _clock(KUBERNETES, "clock", "the API server's", facts.server_time, facts.now)
    refused = sorted(name for name, allowed in facts.access.items() if not allowed)
    if refused:
        remedy = "use an account that may, such as one bound to ClusterRole cluster-admin"
        if not before:
            remedy = "bind a Role that allows it; without it proxies cannot be asked"
        yield error(KUBERNETES, "permissions", f"may not {', '.join(refused)}", remedy)
    elif facts.access:
        yield ok(KUBERNETES, "permissions", f"all {len(facts.access)} that are needed")
    hidden = [line.partition(":")[0] for line in facts.reading.refused]
    if hidden:
        remedy = "what depends on them is not checked; ask for a role that may read them"
        yield skipped(KUBERNETES, "reading", f"may not be read: {', '.join(hidden)}", remedy)


def _clock(category: str, name: str, whose: str, moment: datetime, now: datetime) -> Result:
    # HTTP dates have whole seconds.
    difference = now - moment
    if abs(difference) <= MAX_SKEW:
        return ok(category, name, f"{whose} clock agrees with this machine's")
    seconds = difference.total_seconds()
    text = f"{whose} clock is {abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead'}"
    return error(category, name, text, "run a time service (chrony, systemd-timesyncd) on both")


def definitions(facts: Facts, *, before: bool) -> Iterator[Result]:
    """CustomResourceDefinitions. Before an installation ours may be missing: it brings them."""
    if "CustomResourceDefinition" not in facts.reading.listed:
        return
    served: dict[str, set[str]] = {}
    for one in of_kind(facts, "CustomResourceDefinition"):
        versions = one.get("spec", {}).get("versions", ())
        served[one["metadata"]["name"]] = {v["name"] for v in versions if v.get("served")}
    old = [name for name in GATEWAY_API if name in served and GATEWAY_VERSION not in served[name]]
    missing = [name for name in (*GATEWAY_API, *MESH) if name not in served]
    if old:
        text = f"{', '.join(old)} without version {GATEWAY_VERSION}"
        yield error(GATEWAYS, "versions", text, "install Gateway API 1.0 or later")
    if missing and not before:
        yield error(GATEWAYS, "definitions", f"missing: {', '.join(missing)}", "ambientctl install")
    elif missing:
        yield ok(GATEWAYS, "definitions", "an installation brings those that are missing")
    elif not old:
        yield ok(GATEWAYS, "definitions", "all that the mesh reads")


def nodes(facts: Facts) -> Iterator[Result]:
    """Kernels, readiness and clocks."""
    found = of_kind(facts, "Node")
    if "Node" not in facts.reading.listed:
        return  # the line about reading says so
    if not found:
        yield error(NODES, "nodes", "the cluster has none", "join a node")
        return
    linux = [one for one in found if _info(one).get("operatingSystem", "linux") == "linux"]
    old = [
        f"{one['metadata']['name']} ({_info(one).get('kernelVersion')})"
        for one in linux
        if (_version(str(_info(one).get("kernelVersion", ""))) or MIN_KERNEL) < MIN_KERNEL
    ]
    least = ".".join(map(str, MIN_KERNEL))
    if old:
        text = f"older than {least}: {', '.join(old)}"
        yield error(NODES, "kernel", text, "upgrade their kernel, or keep the mesh off them")
    else:
        yield ok(NODES, "kernel", f"{least} or later on all {len(linux)} Linux nodes")
    unready = [one["metadata"]["name"] for one in found if not _ready(one)]
    if unready:
        text = f"not ready: {', '.join(unready)}"
        yield warning(NODES, "ready", text, f"kubectl describe node {unready[0]}")
    yield from _lease_clocks(facts)


def _lease_clocks(facts: Facts) -> Iterator[Result]:
    now = facts.server_time or facts.now
    ahead, late, looked = [], [], 0
    for lease in facts.leases:
        moment = _time((lease.get("spec") or {}).get("renewTime"))
        if moment is None:
            continue
        looked += 1
        name = lease["metadata"]["name"]
        if moment - now > MAX_SKEW:
            ahead.append(f"{name} ({(moment - now).total_seconds():.0f} s ahead)")
        elif now - moment > LEASE_LATE:
            late.append(f"{name} ({(now - moment).total_seconds():.0f} s ago)")
    if ahead:
        text = f"clock skew: {', '.join(ahead)}"
        remedy = "run a time service there: certificates are not valid yet on other nodes"
        yield error(NODES, "clocks", text, remedy)
    if late:
        text = f"last heard of: {', '.join(late)}"
        remedy = "is the kubelet running there, and is its clock right (chronyc tracking)?"
        yield warning(NODES, "clocks", text, remedy)
    if looked and not ahead and not late:
        yield ok(NODES, "clocks", f"{looked} nodes agree with the API server")


KNOWN_PLUGINS: Final = {
    "cilium": "Cilium", "calico-node": "Calico", "kube-flannel-ds": "Flannel",
    "aws-node": "Amazon VPC CNI", "kindnet": "kindnet", "weave-net": "Weave",
    "antrea-agent": "Antrea", "kube-router": "kube-router", "ovnkube-node": "OVN-Kubernetes",
    "canal": "Canal", "azure-cns": "Azure CNI",
}  # fmt: skip


def network_plugin(facts: Facts) -> Iterator[Result]:
    """Settings of the cluster's network that keep the mesh from capturing traffic."""
    names = {one["metadata"]["name"]: one for one in of_kind(facts, "DaemonSet")}
    found = [plugin for name, plugin in KNOWN_PLUGINS.items() if name in names]
    if facts.cilium is not None and "Cilium" not in found:
        found.append("Cilium")
    yield ok(PLUGIN, "plugin", ", ".join(found) or "none that we know; nothing to check")
    problems = [*_cilium(facts.cilium or {}), *_calico(facts), *_amazon(names.get("aws-node"))]
    yield from problems
    if found and not problems:
        yield ok(PLUGIN, "settings", "nothing that is in the way")


def _cilium(config: Mapping[str, str]) -> Iterator[Result]:
    """Istio's list (operator/pkg/apis/validation), against the live configuration (pain 6)."""
    how = "helm upgrade cilium ... --reuse-values --set"

    def on(key: str) -> bool:
        return config.get(key, "").lower() == "true"

    if on("cni-exclusive"):
        text = "Cilium's cni-exclusive removes our plugin from the CNI configuration"
        yield error(PLUGIN, "cni-exclusive", text, f"{how} cni.exclusive=false")
    if on("enable-bpf-masquerade"):
        text = "Cilium's BPF masquerading changes the address of probes: pods fail them"
        yield error(PLUGIN, "bpf-masquerade", text, f"{how} bpf.masquerade=false")
    if on("bpf-lb-sock") and not on("bpf-lb-sock-hostns-only"):
        text = "Cilium's socket load balancer chooses pods before the tunnel sees the service"
        yield error(PLUGIN, "socket-lb", text, f"{how} socketLB.hostNamespaceOnly=true")
    strict = config.get("kube-proxy-replacement", "").lower() in ("strict", "true")
    if strict and not on("bpf-lb-sock-hostns-only"):
        text = "Cilium replaces kube-proxy, with its socket load balancer in pods as well"
        yield warning(PLUGIN, "kube-proxy", text, f"{how} socketLB.hostNamespaceOnly=true")


def _calico(facts: Facts) -> Iterator[Result]:
    for one in facts.calico:
        spec = one.get("spec") or {}
        if spec.get("bpfEnabled") and spec.get("bpfConnectTimeLoadBalancing", "TCP") not in (
            "Disabled",
        ):
            text = "Calico's connect-time load balancing chooses pods before the tunnel does"
            remedy = (
                "kubectl patch felixconfiguration default --type merge "
                '-p \'{"spec":{"bpfConnectTimeLoadBalancing":"Disabled"}}\''
            )
            yield error(PLUGIN, "connect-time-lb", text, remedy)


def _amazon(daemon_set: Mapping[str, Any] | None) -> Iterator[Result]:
    if daemon_set is None:
        return
    spec = daemon_set["spec"]["template"]["spec"]
    settings = {
        one.get("name"): one.get("value")
        for container in (*spec.get("initContainers", ()), *spec.get("containers", ()))
        for one in container.get("env") or ()
    }
    if (
        settings.get("ENABLE_POD_ENI") == "true"
        and settings.get("DISABLE_TCP_EARLY_DEMUX") != "true"  # or our agent keeps them there
        and settings.get("POD_SECURITY_GROUP_ENFORCING_MODE", "strict") == "strict"
    ):
        text = "pods with security groups of their own answer probes past their node"
        remedy = (
            "kubectl -n kube-system set env daemonset aws-node -c aws-vpc-cni-init "
            "DISABLE_TCP_EARLY_DEMUX=true, as Amazon prescribes for such pods; by it our node "
            "agent knows the node, and keeps probes there"
        )
        yield warning(PLUGIN, "branch-eni", text, remedy)


def pod_security(facts: Facts) -> Iterator[Result]:
    """The system namespace has to let the two DaemonSets onto nodes."""
    found = named(facts, "Namespace", "", facts.system)
    level = ((found or {}).get("metadata", {}).get("labels") or {}).get(
        "pod-security.kubernetes.io/enforce"
    )
    if level in ("restricted", "baseline"):
        text = f"namespace {facts.system} enforces {level}, which refuses ztunnel and the CNI agent"
        remedy = (
            f"kubectl label namespace {facts.system} --overwrite "
            "pod-security.kubernetes.io/enforce=privileged"
        )
        yield error(KUBERNETES, "pod-security", text, remedy)


def _info(node: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (node.get("status") or {}).get("nodeInfo") or {}
    return found


def _ready(node: Mapping[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    told = [one.get("status") for one in conditions if one.get("type") == "Ready"]
    return told in ([], ["True"])


def _version(text: str) -> tuple[int, int] | None:
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
