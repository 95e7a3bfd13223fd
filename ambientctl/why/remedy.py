"""The smallest change that would turn a refusal into a permission."""

from __future__ import annotations

from collections.abc import Sequence

from ambient.api.policy import Action
from ambient.api.spiffe import SCHEME
from ambient.api.workload import Workload
from ambient.policy.core.explain import Explanation, explain
from ambient.policy.core.match import facts_of
from ambient.state.core.mesh import MeshState
from istiod_lite.core.peer_authentication import CONVERTED_PREFIX, STATIC_STRICT
from waypoint.core.authz import Deciding, NearMiss, Verdict
from ztunnel.core.admit import Denial, Permit

STRICT_REMEDY = (
    "put the source into the mesh (label istio.io/dataplane-mode=ambient), "
    "or set PeerAuthentication PERMISSIVE for this workload"
)


def flip_l4(state: MeshState, workload: Workload, denial: Denial) -> str:
    """What would let a connection past the node tunnel of ``workload``."""
    verdict, connection = denial.verdict, denial.connection
    if verdict is None or connection is None:
        return ""
    name = verdict.policy.partition("/")[2]
    if name == STATIC_STRICT or name.startswith(CONVERTED_PREFIX):
        return STRICT_REMEDY
    explanations = explain(state.policies_for(workload), connection)
    if verdict.policy:
        rule = next((e.rule for e in explanations if e.policy == verdict.policy), 0)
        return f"narrow or remove rule {rule} of AuthorizationPolicy {verdict.policy}"
    return _nearest_allow(explanations)


def _nearest_allow(explanations: Sequence[Explanation]) -> str:
    """The ALLOW rule that misses least, and what it misses."""
    rules = [
        (len(misses), e.policy, rule, misses)
        for e in explanations
        if e.action is Action.ALLOW and not e.dry_run
        for rule in {miss.rule for miss in e.misses}
        if (misses := [miss for miss in e.misses if miss.rule == rule])
    ]
    if not rules:
        return "add a rule for this source to one of the ALLOW policies"
    _, policy, rule, misses = min(rules, key=lambda entry: entry[:3])
    wanted = "; ".join(str(miss).partition(": ")[2] for miss in misses)
    return f"widen rule {rule} of AuthorizationPolicy {policy}: {wanted}"


def refuse_l4(state: MeshState, workload: Workload, permit: Permit) -> str:
    """What would make the node tunnel of ``workload`` refuse a connection that it lets pass."""
    connection = permit.connection
    if permit.verdict.policy:
        matching = [
            one for one in state.policies_for(workload).allow if one.matches(facts_of(connection))
        ]
        if len(matching) == 1:
            return f"narrow or remove the rule of AuthorizationPolicy {permit.verdict.policy}"
    who = connection.source
    source = (
        f"principals: [{str(who).removeprefix(SCHEME)}]"
        if who is not None
        else f"ipBlocks: [{connection.source_ip}]"
    )
    where = f"{workload.namespace}, selector app={workload.canonical_name}"
    return f"an AuthorizationPolicy with action DENY in {where}, from {source}"


def refuse_l7(verdict: Verdict, asked: str) -> str:
    """The same for a request at a waypoint."""
    if verdict.by is not None:
        return _narrow(verdict.by)
    return f"an AuthorizationPolicy with action DENY and targetRefs to the service, for {asked}"


def flip_l7(verdict: Verdict, misses: Sequence[NearMiss]) -> str:
    """What would let a request past the policies of a waypoint."""
    if verdict.by is not None:
        return _narrow(verdict.by)
    for miss in misses:
        if miss.effect.upper() == "ALLOW":
            return f"widen rule {miss.rule + 1} of AuthorizationPolicy {miss.policy}: {miss.field}"
    return "add a rule for this request to one of the ALLOW policies"


def _narrow(by: Deciding) -> str:
    """Waypoints count rules from 0, as Envoy does in its logs; people count from 1."""
    return f"narrow or remove rule {by.rule + 1} of AuthorizationPolicy {by.policy}"
