"""May this connection reach this workload? The answer carries its evidence.

DENY comes before ALLOW; with ALLOW policies present one of them has to match; without any the
connection is allowed. Dry-run policies are reported and change nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ambient.policy.core.match import Connection, Facts, facts_of
from ambient.policy.core.select import CompiledPolicy, PolicySet

__all__ = ["NO_POLICY", "Connection", "PolicySet", "Verdict", "decide"]

NO_POLICY: Final = "no policy applies"
MAX_NAMED: Final = 5
"""Missed ALLOW policies that a reason lists; it goes into every log line."""


class Verdict(msgspec.Struct, frozen=True):
    """``policy`` is the one that decided (``namespace/name``), ``""`` where none did.

    ``dry_run_denials`` are the dry-run policies that would deny the connection if enforced.
    """

    allowed: bool
    policy: str
    reason: str
    dry_run_denials: tuple[str, ...] = ()


_NOTHING: Final = Verdict(True, "", NO_POLICY)


def decide(policies: PolicySet, connection: Connection) -> Verdict:
    """Apply the policies that select a workload to a connection towards it."""
    if not (policies.deny or policies.allow or policies.dry_run_deny or policies.dry_run_allow):
        return _NOTHING
    facts = facts_of(connection)
    would_deny = _dry_run_denials(policies, facts)
    for deny in policies.deny:
        if deny.matches(facts):
            return Verdict(False, deny.key, f"denied by {deny.key}", would_deny)
    if not policies.allow:
        return Verdict(True, "", NO_POLICY, would_deny) if would_deny else _NOTHING
    for allow in policies.allow:
        if allow.matches(facts):
            return Verdict(True, allow.key, f"allowed by {allow.key}", would_deny)
    return Verdict(False, "", f"no ALLOW policy matched (of {_names(policies.allow)})", would_deny)


def _dry_run_denials(policies: PolicySet, facts: Facts) -> tuple[str, ...]:
    denials = tuple(p.key for p in policies.dry_run_deny if p.matches(facts))
    # Enforced, a first ALLOW policy turns "allowed unless denied" into "denied unless allowed".
    if policies.dry_run_allow and not any(
        p.matches(facts) for p in policies.dry_run_allow + policies.allow
    ):
        denials += tuple(p.key for p in policies.dry_run_allow)
    return denials


def _names(policies: tuple[CompiledPolicy, ...]) -> str:
    shown = ", ".join(policy.key for policy in policies[:MAX_NAMED])
    more = len(policies) - MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
