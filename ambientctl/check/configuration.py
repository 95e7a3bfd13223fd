"""What the analyzers find in the cluster, as lines of ``check``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ambient.api.workload import TunnelProtocol
from ambientctl.analyze.waypoint_problems import ANALYZERS
from ambientctl.check.facts import Facts
from ambientctl.check.result import Result, error, ok, warning
from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.analyze import analyze
from istiod_lite.core.analysis.corpus import Corpus
from istiod_lite.core.analysis.finding import Finding, Severity
from istiod_lite.core.facts import MeshFacts

CATEGORIES: Final = {
    "network-policies": (codes.BLOCKS_HBONE, codes.PORTS_HOLLOW, codes.BLOCKS_PROBES),
    "enrolment": (
        codes.SIDECAR_AND_AMBIENT, codes.MODE_LABEL, codes.NOT_CAPTURED, codes.NOT_ELIGIBLE,
    ),
    "waypoints": (
        codes.WAYPOINT_MISSING, codes.WAYPOINT_FORBIDDEN, codes.WAYPOINT_TRAFFIC,
        codes.WAYPOINT_UNUSED, codes.WAYPOINT_OUTSIDE_MESH, codes.WAYPOINT_NEEDED,
        codes.WAYPOINT_LABEL,
    ),
    "certificates": (codes.CERTIFICATE, codes.CERTIFICATE_UNREADABLE, codes.ROOTS_DIFFER),
    "policies": (
        codes.INEFFECTIVE_POLICY, codes.INEFFECTIVE_SELECTOR, codes.POLICY_STRICTER,
        codes.POLICIES_CONFLICT, codes.PEERS_CONFLICT, codes.SCRAPE_REFUSED,
        codes.SELECTS_NOTHING, codes.UNKNOWN_PRINCIPAL, codes.POLICY_OUTSIDE_MESH,
    ),
}  # fmt: skip
"""Findings that are a check of their own; others are counted in ``configuration``."""
GOOD: Final = {
    "network-policies": "none is in the way of the mesh",
    "enrolment": "every pod with the label is captured",
    "waypoints": "whoever asks for one has it",
    "policies": "each is enforced, and none takes another back",
}
MOST: Final = 10
"""Lines a category; the rest is counted."""


def corpus_of(facts: Facts) -> Corpus:
    """The reading, for the analyzers."""
    return Corpus(
        facts.reading.items,
        now=facts.server_time or facts.now,
        facts=MeshFacts(root_namespace=facts.system),
        listed=facts.reading.listed,
    )


def configuration(facts: Facts) -> Iterator[Result]:
    """Findings by category, the rest counted; Info is not worth a line here."""
    corpus = corpus_of(facts)
    found = [one for one in analyze(corpus, analyzers=ANALYZERS) if one.severity > Severity.INFO]
    left = list(found)
    for category, those in CATEGORIES.items():
        mine = [one for one in found if one.code in those]
        left = [one for one in left if one not in mine]
        for one in mine[:MOST]:
            yield _line(category, one)
        if len(mine) > MOST:
            yield warning(category, "more", f"{len(mine) - MOST} more", "ambientctl analyze -A")
        if not mine and category in GOOD:
            yield ok(category, category, GOOD[category])
    yield _rest(left)
    yield from _bound(corpus)


def _line(category: str, one: Finding) -> Result:
    made = error if one.severity is Severity.ERROR else warning
    return made(category, f"{one.code.id} {one.ref}", one.message, one.remedy)


def _rest(left: list[Finding]) -> Result:
    errors = sum(one.severity is Severity.ERROR for one in left)
    if not left:
        return ok("configuration", "analyze", "nothing else was found")
    made = error if errors else warning
    text = f"{errors} errors and {len(left) - errors} warnings, first: {left[0].ref}: "
    return made("configuration", "analyze", text + left[0].message, "ambientctl analyze -A")


def _bound(corpus: Corpus) -> Iterator[Result]:
    """Who goes through a waypoint and who goes past it, in numbers (pain 17)."""
    asked = list(corpus.index.bindings.items())
    if not asked:
        return
    accepted = sum(binding.accepted for _, binding in asked)
    text = f"{accepted} of {len(asked)} objects that ask for a waypoint are bound"
    yield ok("waypoints", "bound", text)


def summary(facts: Facts) -> Result:
    """How much of the cluster is in the mesh."""
    workloads = corpus_of(facts).index.workloads.values()
    meshed = sum(one.tunnel_protocol is TunnelProtocol.HBONE for one in workloads)
    return ok("data-plane", "workloads", f"{meshed} of {len(workloads)} are in the mesh")
