"""The AuthorizationPolicy that says in identities what a NetworkPolicy says in addresses."""

from __future__ import annotations

from typing import Any

import msgspec

from ambient.api.ports import HBONE_PORT
from ambient.kube.core import objects
from ambient.kube.core.resources import KubeObject
from istiod_lite.core.analysis.corpus import Corpus, Item, texts
from istiod_lite.core.analysis.workloads import Workload
from istiod_lite.core.validation.report import Field


def equivalent(corpus: Corpus, item: Item) -> tuple[KubeObject, list[str]]:
    """An ALLOW policy for the ingress rules of a NetworkPolicy, and what it could not say.

    Pods are named by the accounts that they have now, so that accounts should not be shared
    between those that may and those that may not.
    """
    remarks: list[str] = []
    rules: list[dict[str, Any]] = []
    for rule in item.spec["ingress"].items():
        made: dict[str, Any] = {}
        sources = [
            source
            for peer in rule["from"].items()
            if (source := _source(corpus, item, peer, remarks)) is not None
        ]
        if rule["from"].given:
            if not sources:
                continue
            made["from"] = [{"source": one} for one in sources]
        ports = _ports(corpus, item, rule, remarks)
        if ports:
            made["to"] = [{"operation": {"ports": ports}}]
        rules.append(made)
    spec: dict[str, Any] = {"action": "ALLOW", "rules": rules}
    if labels := texts(item.spec["podSelector"]["matchLabels"]):
        spec["selector"] = {"matchLabels": labels}
    if item.spec["podSelector"]["matchExpressions"].given:
        remarks.append("matchExpressions of podSelector cannot be said: selects more pods")
    if item.spec["egress"].given:
        remarks.append("egress rules have no counterpart: they stay the NetworkPolicy's")
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": item.ref.key.name, "namespace": item.namespace},
        "spec": spec,
    }
    return policy, remarks


def _source(corpus: Corpus, item: Item, peer: Field, remarks: list[str]) -> dict[str, Any] | None:
    block = peer["ipBlock"]
    if block.given:
        source: dict[str, Any] = {"ipBlocks": [block["cidr"].text()]}
        if block["except"].given:
            source["notIpBlocks"] = block["except"].texts()
        return source
    namespaces = _namespaces(corpus, item, peer)
    if not peer["podSelector"].present:
        if not namespaces:
            remarks.append(f"{peer.path}: no namespace has these labels now")
            return None
        return {"namespaces": namespaces}
    selector = _selector(peer["podSelector"])
    peers = [
        one
        for one in corpus.workloads
        if one.namespace in namespaces and objects.matches(selector, one.labels)
    ]
    if not peers:
        remarks.append(f"{peer.path}: no pod has these labels now")
        return None
    return {"principals": sorted({_principal(corpus, one) for one in peers})}


def _namespaces(corpus: Corpus, item: Item, peer: Field) -> list[str]:
    if not peer["namespaceSelector"].present:
        return [item.namespace]
    selector = _selector(peer["namespaceSelector"])
    found = []
    for namespace in corpus.items("Namespace"):
        name = namespace.ref.key.name
        labels = {"kubernetes.io/metadata.name": name, **namespace.labels}
        if objects.matches(selector, labels):
            found.append(name)
    return found


def _selector(field: Field) -> objects.LabelSelector:
    try:
        return msgspec.convert(field.value or {}, objects.LabelSelector)
    except msgspec.ValidationError:
        # What cannot be read must not widen what is allowed.
        return objects.LabelSelector(match_labels={"": "unreadable"})


def _principal(corpus: Corpus, workload: Workload) -> str:
    domain = corpus.facts.trust_domain
    return f"{domain}/ns/{workload.namespace}/sa/{workload.account}"


def _ports(corpus: Corpus, item: Item, rule: Field, remarks: list[str]) -> list[str]:
    labels = texts(item.spec["podSelector"]["matchLabels"])
    ports: list[str] = []
    for port in rule["ports"].items():
        if (port["protocol"].text() or "TCP") != "TCP":
            remarks.append(f"{port.path}: only TCP goes through the mesh")
            continue
        value = port["port"].value
        numbers = {value}
        if isinstance(value, str):
            behind = corpus.selected(item.namespace, labels)
            numbers = {one.ports[value] for one in behind if value in one.ports}
        if port["endPort"].given:
            remarks.append(f"{port.path}: a range of ports cannot be said; list them")
        ports += [str(one) for one in sorted(n for n in numbers if isinstance(n, int))]
    return [one for one in dict.fromkeys(ports) if one != str(HBONE_PORT)]
