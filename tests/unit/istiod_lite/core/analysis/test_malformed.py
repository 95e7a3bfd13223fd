"""No analyzer raises, whatever stands in an object: schemas of clusters and of files differ."""

from __future__ import annotations

import copy
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ambientctl.analyze.waypoint_problems import ANALYZERS
from istiod_lite.core.analysis.analyze import analyze
from istiod_lite.core.analysis.corpus import Corpus, Item
from istiod_lite.core.facts import ObjectKey, ObjectRef
from tests.unit.istiod_lite.core.analysis.reading import BOUND, NOW, WAYPOINT

ROOT = Path(__file__).parents[5]
ODD = (
    None, 0, -1, 1.5, 10**30, True, "", "x", "*", "a/b/c", [], {}, [None], [[]], [{}],
    [7], {"a": None}, {"name": []}, {"port": {}}, ["x", 7, None, {}], {"": ""}, [{"name": {}}],
    "a b", {8080: {"mode": "STRICT"}},
)  # fmt: skip


def seeds():
    """Every kind that analyzers look at."""
    files = sorted((ROOT / "tests" / "scenarios" / "traffic").glob("*.yaml"))
    texts = [path.read_text() for path in files]
    texts += [(ROOT / "manifests" / "base" / f"{name}.yaml").read_text() for name in
              ("istiod", "ztunnel", "webhook", "gateway-class")]  # fmt: skip
    texts.append((Path(__file__).parent / "seeds.yaml").read_text())
    for text in (*texts, BOUND, WAYPOINT):
        yield from (one for one in yaml.safe_load_all(text) if one)


OBJECTS = list(seeds())


def places(value, way=()):
    """Paths to everything inside an object."""
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    else:
        return
    for key, one in inside:
        yield (*way, key)
        yield from places(one, (*way, key))


PLACES = [(number, way) for number, one in enumerate(OBJECTS) for way in places(one)]
NEVER = {("kind",), ("metadata",), ("metadata", "name"), ("metadata", "namespace")}
"""Without these nothing is an object; reading refuses it."""


def changed(changes):
    objects = {number: copy.deepcopy(OBJECTS[number]) for number, _, _ in changes}
    for number, way, odd in changes:
        inner = objects[number]
        try:
            for step in way[:-1]:
                inner = inner[step]
            inner[way[-1]] = copy.deepcopy(odd)
        except (KeyError, IndexError, TypeError):
            pass  # an earlier change has taken the place away
    return [objects.get(number, one) for number, one in enumerate(OBJECTS)]


def item(obj):
    metadata = obj["metadata"]
    key = ObjectKey(metadata.get("namespace", ""), metadata["name"])
    return Item(ObjectRef(obj["kind"], key), obj)


change = st.tuples(
    st.sampled_from([one for one in PLACES if one[1] not in NEVER]), st.sampled_from(ODD)
).map(lambda both: (*both[0], both[1]))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(change, min_size=1, max_size=12))
def test_no_analyzer_raises(changes):
    corpus = Corpus([item(one) for one in changed(changes)], now=NOW)
    analyze(corpus, analyzers=ANALYZERS)


def test_the_seeds_are_understood():
    """Or the mutants would all end at the first look."""
    corpus = Corpus(list(map(item, OBJECTS)), now=NOW)
    found = {one.code.id for one in analyze(corpus, analyzers=ANALYZERS)}
    assert len(found) >= 10, found
    assert {one["kind"] for one in OBJECTS} >= {
        "AuthorizationPolicy", "DestinationRule", "Gateway", "HTTPRoute", "NetworkPolicy",
        "PeerAuthentication", "RequestAuthentication", "ServiceEntry", "VirtualService",
    }  # fmt: skip
