"""DestinationRule: which endpoints a subset has, and how they are used."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import NamespacedHostname
from waypoint.core.objects import Problem, UnusableError, mapping, sequence, string, strings
from waypoint.core.place import Place, exported, host_matches
from waypoint.core.traffic_policy import (
    ClusterSettings,
    TrafficPolicy,
    compile_traffic_policy,
    settings_for,
)
from waypoint.core.virtual_service import age


class Subset(msgspec.Struct, frozen=True):
    """Endpoints whose labels contain these; what ``policy`` leaves open is the rule's."""

    labels: dict[str, str]
    policy: TrafficPolicy | None = None

    def selects(self, labels: dict[str, str]) -> bool:
        """Does a pod with these labels belong to the subset?"""
        return all(labels.get(key) == value for key, value in self.labels.items())


class DestinationRule(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled DestinationRule."""

    source: str
    namespace: str
    host: str
    subsets: dict[str, Subset]
    policy: TrafficPolicy | None
    export_to: tuple[str, ...]
    age: tuple[str, str, str]


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What all rules for one service amount to."""

    subsets: dict[str, Subset] = {}
    policy: TrafficPolicy | None = None

    def settings(self, port: int, subset: Subset | None) -> ClusterSettings:
        """What holds for a port, in one of the subsets or (None) without."""
        return settings_for(self.policy, subset.policy if subset is not None else None, port)


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
        policy = compile_traffic_policy(
            subset.get("trafficPolicy"), f"{field}.trafficPolicy", name, problems
        )
        subsets.setdefault(string(subset.get("name"), f"{field}.name"), Subset(values, policy))
    rule = DestinationRule(
        source=name,
        namespace=config.namespace,
        host=host if host.startswith("*") else place.resolve(host, config.namespace).hostname,
        subsets=subsets,
        policy=compile_traffic_policy(
            spec.get("trafficPolicy"), "spec.trafficPolicy", name, problems
        ),
        export_to=strings(spec.get("exportTo"), "spec.exportTo"),
        age=age(config),
    )
    if spec.get("workloadSelector"):
        problems.append(
            Problem(name, "spec.workloadSelector", "selects sidecars", "the rule is left out here")
        )
        rule = msgspec.structs.replace(rule, export_to=("~",))
    return rule, problems


def traffic_for(
    rules: Iterable[DestinationRule], service: NamespacedHostname, place: Place
) -> Traffic:
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
        policy = next((r.policy for r in chosen if r.policy is not None), None)
        return Traffic(subsets=subsets, policy=policy)
    return Traffic()
