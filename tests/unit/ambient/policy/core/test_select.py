"""Which policies end up in a workload's set, and what is known to be missing."""

from ambient.api.policy import Action, Authorization, Scope
from ambient.policy.core.select import PolicySet, select


def policy(key, scope, action=Action.DENY, *, dry_run=False):
    namespace, _, name = key.partition("/")
    return Authorization(
        name=name, namespace=namespace, scope=scope, action=action, dry_run=dry_run
    )


def test_only_selecting_policies_are_in_the_set_sorted_by_action_and_key():
    policies = [
        policy("shop/z", Scope.NAMESPACE),
        policy("shop/a", Scope.NAMESPACE),
        policy("root/g", Scope.GLOBAL, Action.ALLOW),
        policy("bank/n", Scope.NAMESPACE),
        policy("shop/s", Scope.WORKLOAD_SELECTOR),
        policy("shop/d", Scope.NAMESPACE, dry_run=True),
        policy("shop/e", Scope.NAMESPACE, Action.ALLOW, dry_run=True),
    ]
    chosen = select(policies, "shop", ["shop/s", "shop/gone"])
    assert [p.key for p in chosen.deny] == ["shop/a", "shop/s", "shop/z"]
    assert [p.key for p in chosen.allow] == ["root/g"]
    assert [p.key for p in chosen.dry_run_deny] == ["shop/d"]
    assert [p.key for p in chosen.dry_run_allow] == ["shop/e"]
    assert chosen.missing == ("shop/gone",)
    assert len(chosen.all) == 6


def test_nothing_selected():
    assert select([], "shop", []).all == PolicySet().all == ()
