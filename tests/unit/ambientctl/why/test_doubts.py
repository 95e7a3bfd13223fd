"""A trial by traffic passes whatever matches no traffic: that is said."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import yaml

from ambientctl.why.doubts import doubts
from istiod_lite.core.analysis.corpus import Item
from istiod_lite.core.facts import ObjectKey, ObjectRef
from tests.unit.ambientctl.why.cluster import SHOP, by_kind

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def tried(app: str, principal: str) -> list[Item]:
    text = f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: readers, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  rules: [{{from: [{{source: {{principals: ["{principal}"]}}}}]}}]
"""
    ref = ObjectRef("AuthorizationPolicy", ObjectKey("shop", "readers"))
    return [Item(ref, yaml.safe_load(text))]


@pytest.mark.parametrize(
    ("app", "principal", "words"),
    [
        ("details", "cluster.local/ns/shop/sa/client-sa", []),
        ("detials", "cluster.local/ns/shop/sa/client-sa", ["selects nothing"]),
        ("details", "spiffe://cluster.local/ns/shop/sa/client-sa", ["never matches"]),
    ],
)
def test_policies_that_mean_nobody_are_named(app: str, principal: str, words: list[str]) -> None:
    found = doubts(by_kind(SHOP), tried(app, principal), NOW)

    assert len(found) == len(words)
    assert all(word in one.message for word, one in zip(words, found, strict=True))


def test_what_the_cluster_has_already_is_no_doubt_of_the_trial() -> None:
    (there,) = tried("detials", "cluster.local/ns/shop/sa/client-sa")

    assert doubts(by_kind([*SHOP, there.obj]), [], NOW) == []
