"""What waypoints make of their objects: fields that they cannot use, in the waypoint's own words.

Waypoints compile Kubernetes objects themselves; this compiles the same objects with the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.analyze import ANALYZERS as MESH_ANALYZERS
from istiod_lite.core.analysis.analyze import Analyzer
from istiod_lite.core.analysis.corpus import Corpus
from istiod_lite.core.analysis.finding import Finding
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.waypoints import is_waypoint
from waypoint.core.place import Place
from waypoint.core.program import Program


def waypoint_problems(corpus: Corpus) -> Iterator[Finding]:
    """Fields that waypoints leave out or refuse."""
    facts = corpus.facts
    told: set[tuple[ObjectRef, str, str]] = set()
    for key in corpus.index.inputs.gateways:
        gateway = corpus.index.inputs.gateways.get(key)
        if gateway is None or not is_waypoint(gateway):
            continue
        place = Place(
            namespace=key.namespace,
            gateway=key.name,
            domain=facts.cluster_domain,
            trust_domain=facts.trust_domain,
            root_namespace=facts.root_namespace,
        )
        configs = corpus.index.configs_for_waypoint(*key)
        for problem in Program(place).changed(configs.values()).problems:
            kind, _, rest = problem.object.partition("/")
            namespace, _, name = rest.partition("/")
            ref = ObjectRef(kind, ObjectKey(namespace, name))
            item = corpus.at(ref)
            mark = (ref, problem.field, problem.reason)
            if item is None or mark in told:
                continue
            told.add(mark)
            text = f"{problem.field}: {problem.reason}" if problem.field else problem.reason
            remedy = f"ambientctl explain {kind} says which fields work where"
            yield item.says(codes.FIELD_IGNORED, text, remedy, field=problem.field)


ANALYZERS: Final[Mapping[str, Analyzer]] = {**MESH_ANALYZERS, "waypoint-fields": waypoint_problems}
"""The library's, and this one, which needs the waypoint's own code."""
