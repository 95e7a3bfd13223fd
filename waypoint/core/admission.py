"""Endpoints that admit this waypoint for the sake of its clients.

Where L4 ALLOW policies select an endpoint, the control plane adds one that admits the endpoint's
waypoint: the node tunnel there sees the waypoint's identity, not the client's. Whether the client
itself is admitted is then for the waypoint to say, who knows both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from ambient.api.policy import Authorization, MatchKind, ServiceAccountMatch, StringMatch
from ambient.policy.core.decide import Connection, PolicySet, decide
from waypoint.core.authz import Verdict
from waypoint.core.directory import Directory
from waypoint.core.dispatch import Self
from waypoint.core.host import Target
from waypoint.core.message import Peer

ADMISSION: Final = "istio_allow_waypoint_"
"""Name prefix of the policies that the control plane adds (Istio)."""


def admitted(
    targets: tuple[Target, ...], directory: Directory, peer: Peer, own: Self
) -> tuple[Target, ...] | Verdict:
    """The endpoints that the client may reach through us; a refusal if none is left."""
    kept: list[Target] = []
    reason = ""
    for target in targets:
        refusal = refused(directory.policies_for(target.workload), target, peer, own)
        if refusal:
            reason = refusal
        else:
            kept.append(target)
    if reason and not kept:
        return Verdict(allowed=False, reason=f"L4 policies of the endpoints: {reason}")
    return tuple(kept) if reason else targets


def guarded(policies: PolicySet) -> bool:
    """Does an endpoint with these policies admit us for the sake of our clients?"""
    return any(_is_admission(one.key) for one in policies.allow)


def refused(policies: PolicySet, target: Target, peer: Peer, own: Self) -> str:
    """Why the client may not reach an endpoint that admits this waypoint; empty if it may.

    Policies that name the waypoint's account, as users write them who want all traffic to come
    through it, go on meaning that. Others, such as those for its namespace, mean the client.
    """
    if not target.workload.addresses:
        return ""  # a name outside the mesh, which no policy selects
    if not policies.allow:
        return ""
    written = tuple(one for one in policies.allow if not _is_admission(one.key))
    if len(written) == len(policies.allow):
        return ""  # the endpoint's own tunnel has to admit us
    by_name = tuple(one for one in written if _names(one.policy, own))
    if by_name:
        meant = msgspec.structs.replace(policies, allow=by_name)
        if any(decide(meant, one).allowed for one in _as_ourselves(own, target)):
            return ""
    ip = target.workload.addresses[0]
    rest = msgspec.structs.replace(policies, allow=written)
    verdict = decide(rest, Connection(peer.identity, peer.ip, ip, target.address.port))
    return "" if verdict.allowed else verdict.reason


def _names(policy: Authorization, own: Self) -> bool:
    """Whether a policy speaks of the waypoint's very account."""
    identity = own.place.identity
    principal = StringMatch(MatchKind.EXACT, str(identity).removeprefix("spiffe://"))
    account = ServiceAccountMatch(identity.namespace, identity.service_account)
    return any(
        principal in match.principals or account in match.service_accounts
        for group in policy.groups
        for clause in group
        for match in clause
    )


def _as_ourselves(own: Self, target: Target) -> Iterator[Connection]:
    ip = target.workload.addresses[0]
    for address in own.addresses:
        yield Connection(own.place.identity, address.ip, ip, target.address.port)


def _is_admission(key: str) -> bool:
    return key.partition("/")[2].startswith(ADMISSION)
