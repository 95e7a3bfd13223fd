"""The policies of the mesh, and the compiled set of each kind of workload."""

from __future__ import annotations

from collections.abc import Iterator

from ambient.api.policy import Authorization, Scope
from ambient.api.workload import Workload
from ambient.policy.core.select import CompiledPolicy, PolicySet, compile_policy, policy_set

Selector = tuple[str, tuple[str, ...]]
"""All of a workload that selection looks at: its namespace and the policies that it names."""


class Policies:
    """Policies are compiled when they arrive; sets are cached until a policy changes them."""

    def __init__(self) -> None:
        self._by_key: dict[str, CompiledPolicy] = {}
        self._global: dict[str, CompiledPolicy] = {}
        self._by_namespace: dict[str, dict[str, CompiledPolicy]] = {}
        self._sets: dict[Selector, PolicySet] = {}

    def __iter__(self) -> Iterator[Authorization]:
        return (compiled.policy for compiled in self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> Authorization | None:
        """The policy ``namespace/name``."""
        compiled = self._by_key.get(key)
        return compiled.policy if compiled else None

    def put(self, policy: Authorization) -> Authorization | None:
        """Insert or replace; the replaced one comes back."""
        old = self.remove(policy.key)
        compiled = compile_policy(policy)
        self._by_key[policy.key] = compiled
        match policy.scope:
            case Scope.GLOBAL:
                self._global[policy.key] = compiled
            case Scope.NAMESPACE:
                self._by_namespace.setdefault(policy.namespace, {})[policy.key] = compiled
            case Scope.WORKLOAD_SELECTOR:
                pass  # found by name
        self._forget_sets(policy)
        return old

    def remove(self, key: str) -> Authorization | None:
        """Forget one; None where it was not known."""
        compiled = self._by_key.pop(key, None)
        if compiled is None:
            return None
        policy = compiled.policy
        self._global.pop(key, None)
        namespaced = self._by_namespace.get(policy.namespace, {})
        namespaced.pop(key, None)
        if not namespaced:
            self._by_namespace.pop(policy.namespace, None)
        self._forget_sets(policy)
        return policy

    def of(self, workload: Workload) -> PolicySet:
        """What applies to ``workload``: global, its namespace's, and those that it names."""
        selector = (workload.namespace, workload.authorization_policies)
        found = self._sets.get(selector)
        if found is None:
            found = self._sets[selector] = self._select(selector)
        return found

    def _select(self, selector: Selector) -> PolicySet:
        namespace, names = selector
        chosen = self._global | self._by_namespace.get(namespace, {})
        for name in names:
            named = self._by_key.get(name)
            # A policy of another scope applies (or not) by its scope, even where it is named.
            if named is not None and named.policy.scope is Scope.WORKLOAD_SELECTOR:
                chosen[name] = named
        return policy_set(chosen.values(), (name for name in names if name not in self._by_key))

    def _forget_sets(self, policy: Authorization) -> None:
        """Sets that cannot contain the policy stay."""
        match policy.scope:
            case Scope.GLOBAL:
                self._sets.clear()
            case Scope.NAMESPACE:
                stale = [s for s in self._sets if s[0] == policy.namespace or policy.key in s[1]]
                for selector in stale:
                    del self._sets[selector]
            case Scope.WORKLOAD_SELECTOR:
                for selector in [s for s in self._sets if policy.key in s[1]]:
                    del self._sets[selector]
