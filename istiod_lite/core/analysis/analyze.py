"""All analyzers over one set of objects, and what their reader does not want to hear."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from istiod_lite.core.analysis import (
    annotation_keys,
    backends,
    certificates,
    definitions,
    enrolment,
    hosts,
    network_policies,
    policies,
    policy_conflicts,
    routes,
    schema,
    services,
    virtual_services,
    waypoint_use,
)
from istiod_lite.core.analysis.corpus import Corpus
from istiod_lite.core.analysis.finding import Finding

Analyzer = Callable[[Corpus], Iterator[Finding]]
SUPPRESS_ANNOTATION: Final = "galley.istio.io/analyze-suppress"
"""On an object: codes with commas between them, or ``*`` (Istio's)."""

ANALYZERS: Final[Mapping[str, Analyzer]] = {
    "schema": schema.schema,
    "deprecated": schema.deprecated,
    "ignored-kinds": schema.ignored_kinds,
    "annotations": annotation_keys.of_objects,
    "certificates": certificates.authorities,
    "roots": certificates.roots,
    "definitions": definitions.definitions,
    "webhooks": definitions.webhooks,
    "namespaces": enrolment.namespaces,
    "labels": enrolment.labels,
    "pods": enrolment.pods,
    "destinations": hosts.destinations,
    "destination-rules": hosts.rule_hosts,
    "virtual-services": virtual_services.virtual_services,
    "routes": routes.routes,
    "backend-policies": backends.policies,
    "gateways": routes.gateways,
    "waypoints": waypoint_use.bindings,
    "waypoint-namespaces": waypoint_use.namespaces_asking,
    "waypoints-unused": waypoint_use.unused,
    "waypoints-needed": waypoint_use.l7_objects,
    "policies": policies.enforcement,
    "selectors": policies.selection,
    "principals": policies.principals,
    "policy-conflicts": policy_conflicts.authorization_conflicts,
    "peer-authentications": policy_conflicts.peer_authentications,
    "scrapes": policy_conflicts.scrapes,
    "ports": services.ports,
    "target-ports": services.target_ports,
    "external-names": services.external_names,
    "shared-pods": services.shared_pods,
    "service-entries": services.service_entries,
    "network-policies": network_policies.network_policies,
}
"""By name, as ``--analyzer`` and ``--list-analyzers`` spell it."""


class Suppression(NamedTuple):
    """``IST0118=Service shop.*``: a code, and which objects of which kind; wildcards in each."""

    code: str
    kind: str = "*"
    name: str = "*"
    """``name.namespace`` as istioctl writes it."""

    @classmethod
    def parse(cls, text: str) -> Suppression:
        """Raises ValueError with what is wrong."""
        code, _, rest = text.partition("=")
        if not code.strip():
            raise ValueError(f"{text!r} names no code")
        kind, _, name = rest.strip().partition(" ")
        return cls(code.strip(), kind or "*", name.strip() or "*")

    def covers(self, finding: Finding) -> bool:
        """Whether it hides a finding."""
        key = finding.ref.key
        name = f"{key.name}.{key.namespace}" if key.namespace else key.name
        return (
            fnmatchcase(finding.code.id, self.code)
            and fnmatchcase(finding.ref.kind.lower(), self.kind.lower())
            and (fnmatchcase(name, self.name) or fnmatchcase(key.name, self.name))
        )


def analyze(
    corpus: Corpus,
    *,
    only: Iterable[str] = (),
    suppressed: Iterable[Suppression] = (),
    analyzers: Mapping[str, Analyzer] = ANALYZERS,
) -> list[Finding]:
    """Findings without repetition, the worst first."""
    names = set(only) or set(analyzers)
    hidden = tuple(suppressed)
    found: dict[Finding, None] = {}
    for name, analyzer in analyzers.items():
        if name not in names:
            continue
        for finding in analyzer(corpus):
            if not any(one.covers(finding) for one in hidden) and not _muted(corpus, finding):
                found[finding] = None
    return sorted(found, key=lambda one: one.order)


def _muted(corpus: Corpus, finding: Finding) -> bool:
    item = corpus.at(finding.ref)
    if item is None:
        return False
    muted = {one.strip() for one in item.annotations.get(SUPPRESS_ANNOTATION, "").split(",")}
    return bool(muted & {"*", finding.code.id})
