"""DestinationRule: which endpoints a subset has, and how one of them is chosen."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import NamespacedHostname
from waypoint.core.objects import Json, Problem, UnusableError, mapping, sequence, string, strings
from waypoint.core.place import Place, exported, host_matches
from waypoint.core.virtual_service import age

NOT_APPLIED = ("connectionPool", "outlierDetection", "tls", "tunnel", "portLevelSettings")
"""Parts of a traffic policy that are left out."""


class Balancing(Enum):
    """How one of several endpoints is chosen."""

    LEAST_REQUEST = "LEAST_REQUEST"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"


SPELLINGS = {
    "": Balancing.LEAST_REQUEST,
    "UNSPECIFIED": Balancing.LEAST_REQUEST,
    "LEAST_CONN": Balancing.LEAST_REQUEST,
    "LEAST_REQUEST": Balancing.LEAST_REQUEST,
    "ROUND_ROBIN": Balancing.ROUND_ROBIN,
    "RANDOM": Balancing.RANDOM,
}


class Subset(msgspec.Struct, frozen=True):
    """Endpoints whose labels contain these; ``balancing`` None inherits."""

    labels: dict[str, str]
    balancing: Balancing | None = None

    def selects(self, labels: dict[str, str]) -> bool:
        """Does a pod with these labels belong to the subset?"""
        return all(labels.get(key) == value for key, value in self.labels.items())


class DestinationRule(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled DestinationRule."""

    source: str
    namespace: str
    host: str
    subsets: dict[str, Subset]
    balancing: Balancing | None
    export_to: tuple[str, ...]
    age: tuple[str, str, str]


class TrafficPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What all rules for one service amount to."""

    subsets: dict[str, Subset] = {}
    balancing: Balancing = Balancing.LEAST_REQUEST


def compile_destination_rule(
    config: ConfigObject, place: Place
) -> tuple[DestinationRule, list[Problem]]:
    """The rule, and what could not be used. Raises UnusableError for a broken whole."""
    name = f"DestinationRule/{config.namespace}/{config.name}"
    spec = mapping(config.object.get("spec"), "spec")
    host = string(spec.get("host"), "spec.host")
    if not host:
        raise UnusableError("spec.host", "required")
    problems: list[Problem] = []
    subsets: dict[str, Subset] = {}
    for index, raw in enumerate(sequence(spec.get("subsets"), "spec.subsets")):
        field = f"spec.subsets[{index}]"
        subset = mapping(raw, field)
        labels = mapping(subset.get("labels"), f"{field}.labels")
        values = {key: string(value, f"{field}.labels[{key}]") for key, value in labels.items()}
        balancing = _balancing(subset, f"{field}.trafficPolicy", name, problems)
        subsets.setdefault(string(subset.get("name"), f"{field}.name"), Subset(values, balancing))
    rule = DestinationRule(
        source=name,
        namespace=config.namespace,
        host=host if host.startswith("*") else place.resolve(host, config.namespace).hostname,
        subsets=subsets,
        balancing=_balancing(spec, "spec.trafficPolicy", name, problems),
        export_to=strings(spec.get("exportTo"), "spec.exportTo"),
        age=age(config),
    )
    return rule, problems


def _balancing(owner: Json, field: str, name: str, problems: list[Problem]) -> Balancing | None:
    policy = mapping(owner.get("trafficPolicy"), field)
    for part in NOT_APPLIED:
        if policy.get(part):
            problems.append(Problem(name, f"{field}.{part}", "not supported", "left out"))
    balancer = mapping(policy.get("loadBalancer"), f"{field}.loadBalancer")
    if not balancer:
        return None
    simple = string(balancer.get("simple"), f"{field}.loadBalancer.simple")
    others = [key for key in balancer if key != "simple"]
    if others or simple not in SPELLINGS:
        what = ", ".join(others) or simple
        problems.append(
            Problem(name, f"{field}.loadBalancer", f"{what} is not supported", "LEAST_REQUEST")
        )
    return SPELLINGS.get(simple, Balancing.LEAST_REQUEST)


def traffic_policy(
    rules: Iterable[DestinationRule], service: NamespacedHostname, place: Place
) -> TrafficPolicy:
    """Merge the rules for a service.

    The first namespace that has a rule decides: the waypoint's, the service's, the root. Inside
    it an exact host beats a wildcard and the longest wildcard beats the others.
    """
    known = [rule for rule in rules if host_matches(rule.host, service.hostname)]
    for namespace in (place.namespace, service.namespace, place.root_namespace):
        here = [
            rule
            for rule in known
            if rule.namespace == namespace
            and exported(rule.export_to, rule.namespace, place.namespace)
        ]
        if not here:
            continue
        best = max((not rule.host.startswith("*"), len(rule.host)) for rule in here)
        chosen = sorted(
            (r for r in here if (not r.host.startswith("*"), len(r.host)) == best),
            key=lambda rule: rule.age,
        )
        subsets: dict[str, Subset] = {}
        for rule in chosen:
            subsets = {**rule.subsets, **subsets}
        balancing = next((r.balancing for r in chosen if r.balancing), Balancing.LEAST_REQUEST)
        return TrafficPolicy(subsets=subsets, balancing=balancing)
    return TrafficPolicy()
