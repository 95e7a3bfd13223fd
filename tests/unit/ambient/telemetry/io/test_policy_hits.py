"""How often policies decide."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from ambient.telemetry.io.policy_hits import PolicyHits


def test_decisions_are_counted_by_policy() -> None:
    hits, registry = PolicyHits(), CollectorRegistry()
    registry.register(hits)
    hits.decided("shop/web", allowed=True)
    hits.decided("shop/web", allowed=True)
    hits.decided("shop/web", allowed=False)
    hits.decided("", allowed=True)  # nobody's decision
    hits.would_deny(("shop/tried", "shop/other"))

    def value(decision: str) -> float | None:
        labels = {"policy": "shop/web", "decision": decision}
        return registry.get_sample_value("ambient_policy_decisions_total", labels)

    assert (value("allow"), value("deny")) == (2, 1)
    name = "ambient_policy_dry_run_denials_total"
    assert registry.get_sample_value(name, {"policy": "shop/tried"}) == 1


def test_there_is_nothing_to_say_before_the_first_decision() -> None:
    assert list(PolicyHits().collect()) == []
