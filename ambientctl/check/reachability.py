"""What the probes of tunnels mean, as lines of ``check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ambient.api.ports import HBONE_PORT
from ambientctl.check.facts import Facts, named, of_kind
from ambientctl.check.probing import CONNECT, DONE, HANDSHAKE, Reached, Target
from ambientctl.check.result import Result, error, ok, skipped, warning
from ambientctl.network_policies import INGRESS, label_of, pod_of, selects

CATEGORY: Final = "reachability"
AGAIN: Final = "ambientctl upgrade brings tunnels that can be asked"


def reachability(facts: Facts) -> Iterator[Result]:
    """A line for each target that nobody reaches, and one for the others."""
    probing = facts.probing
    if probing is None:
        return
    for line in probing.unable:
        yield skipped(CATEGORY, "probes", f"no probe by {line}", AGAIN)
    by_target: dict[Target, list[Reached]] = {}
    for one in probing.reached:
        by_target.setdefault(one.target, []).append(one)
    good = 0
    for target, probes in by_target.items():
        if any(one.stage == DONE for one in probes):
            good += 1
        else:
            yield _unreached(target, probes, facts)
    if good:
        more = f"; {probing.left_out} more were not tried" if probing.left_out else ""
        text = f"{good} pods answer other pods at port {HBONE_PORT}, each as itself{more}"
        yield ok(CATEGORY, "probes", text)
    elif not by_target and not probing.unable:
        yield ok(CATEGORY, "probes", "no two pods are in the mesh: nobody to reach for")


def _unreached(target: Target, probes: Sequence[Reached], facts: Facts) -> Result:
    first, system = probes[0], facts.system
    source = first.source
    name = f"{target.namespace}/{target.name}"
    callers = ", ".join(f"{one.source.namespace}/{one.source.name}" for one in probes)
    where = f" ({source.node} to {target.node})" if source.node != target.node else ""
    text = f"{callers} cannot reach the tunnel of {name}{where}: {first.error}"
    policies = isolating(facts, target)
    if first.stage == CONNECT and "refused" in first.error.lower():
        remedy = (
            f"nobody listens there: ambientctl describe pod {name}; "
            f"kubectl -n {system} get pods -l app=ztunnel -o wide"
        )
    elif first.stage == CONNECT and policies:
        # Whether these callers are meant to be let in, only its author knows.
        remedy = f"let TCP {HBONE_PORT} in from its callers: {', '.join(policies)}"
        return warning(CATEGORY, name, text, remedy)
    elif first.stage == CONNECT:
        remedy = (
            f"let TCP {HBONE_PORT} through: no NetworkPolicy selects {name}, so look at firewalls "
            "and security groups of the nodes and at policies of the network plugin's own"
        )
    elif first.stage == HANDSHAKE:
        remedy = "look at the lines about clocks and certificates; ambientctl zc certificates"
    else:
        remedy = f"kubectl -n {system} logs {source.tunnel}"
    return error(CATEGORY, name, text, remedy)


def isolating(facts: Facts, target: Target) -> list[str]:
    """NetworkPolicies that select the pod for what comes in."""
    found = named(facts, "Pod", target.namespace, target.name)
    if found is None:
        return []
    pod = pod_of(dict(found), None)
    policies = of_kind(facts, "NetworkPolicy")
    return sorted(label_of(one) for one in policies if selects(one, INGRESS, pod))
