"""PeerAuthentication: which workloads refuse plaintext, on which ports.

Node tunnels know no modes, only policies: STRICT becomes a DENY for peers without an identity.
A workload that is strict on every port refers to one static policy; exceptions for single ports
make a policy of their own (control-plane names as Istio's).

Where Istio surprises, strict means strict here: the mode of a port depends on the workload's own
mode or what it inherits and on nothing else, and an unknown mode is STRICT.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ambient.api.policy import Action, Authorization, Group, Match, MatchKind, Scope, StringMatch
from ambient.kube.core import objects
from istiod_lite.core.statuses import ZTUNNEL_ACCEPTED, Condition

STATIC_STRICT: Final = "istio_converted_static_strict"
CONVERTED_PREFIX: Final = "converted_peer_authentication_"
_ANONYMOUS: Final = Match(not_principals=(StringMatch(MatchKind.PRESENCE),))
_PLAINTEXT_MODES: Final = frozenset({"PERMISSIVE", "DISABLE"})
_UNSET_MODES: Final = frozenset({"", "UNSET"})


def static_strict(root_namespace: str) -> Authorization:
    """Denies every peer without an identity, on every port."""
    return Authorization(
        name=STATIC_STRICT,
        namespace=root_namespace,
        scope=Scope.WORKLOAD_SELECTOR,
        action=Action.DENY,
        groups=(((_ANONYMOUS,),),),
    )


def has_selector(policy: objects.PeerAuthentication) -> bool:
    """Whether it is meant for some workloads; an empty selector means all of them."""
    selector = policy.spec.selector
    return selector is not None and bool(selector.match_labels)


def selects(policy: objects.PeerAuthentication, labels: dict[str, str]) -> bool:
    """Whether it is meant for workloads with these labels and not for all."""
    selector = policy.spec.selector
    return (
        selector is not None
        and bool(selector.match_labels)
        and objects.selects(selector.match_labels, labels)
    )


def oldest(policies: Iterable[objects.PeerAuthentication]) -> objects.PeerAuthentication | None:
    """Of several policies for the same workloads the oldest one counts."""
    return min(policies, key=lambda one: one.metadata.age_order, default=None)


def deciding(
    policies: Iterable[objects.PeerAuthentication],
    namespace: str,
    labels: dict[str, str],
    root_namespace: str,
) -> objects.PeerAuthentication | None:
    """The object that sets the mode of a workload with these labels; None where none does."""
    every = list(policies)

    def wide(where: str) -> objects.PeerAuthentication | None:
        there = (one for one in every if one.metadata.namespace == where)
        return oldest(one for one in there if not has_selector(one))

    own = oldest(
        one for one in every if one.metadata.namespace == namespace and selects(one, labels)
    )
    for policy in (own, wide(namespace), wide(root_namespace)):
        if policy is not None and _mode(policy.spec.mtls) is not None:
            return policy
    return None


def inherited_strict(
    mesh: objects.PeerAuthentication | None, namespace: objects.PeerAuthentication | None
) -> bool:
    """The mode without a policy for the workload itself; PERMISSIVE where nobody says."""
    strict = False
    for policy in (mesh, namespace):
        mode = _mode(policy.spec.mtls if policy is not None else None)
        strict = strict if mode is None else mode
    return strict


def converted(policy: objects.PeerAuthentication, inherited: bool) -> Authorization | None:
    """The policy for its exceptions; None where the mode is the same on every port."""
    own = _mode(policy.spec.mtls)
    strict = inherited if own is None else own
    ports = _exceptions(policy, strict)
    if not ports:
        return None
    groups: tuple[Group, ...]
    if strict:
        others = tuple((Match(not_destination_ports=(port,)),) for port in ports)
        # The order that Istio writes; it means nothing.
        groups = (((_ANONYMOUS,), *others) if own else (*others, (_ANONYMOUS,)),)
    else:
        groups = tuple(
            ((Match(not_principals=_ANONYMOUS.not_principals, destination_ports=(port,)),),)
            for port in ports
        )
    return Authorization(
        name=CONVERTED_PREFIX + policy.metadata.name,
        namespace=policy.metadata.namespace,
        scope=Scope.WORKLOAD_SELECTOR,
        action=Action.DENY,
        groups=groups,
    )


def policy_key(
    policy: objects.PeerAuthentication | None, inherited: bool, root_namespace: str
) -> str | None:
    """The policy that a workload refers to; ``policy`` is the one that selects it, if any."""
    strict = inherited
    if policy is not None:
        exception = converted(policy, inherited)
        if exception is not None:
            return exception.key
        own = _mode(policy.spec.mtls)
        strict = inherited if own is None else own
    return f"{root_namespace}/{STATIC_STRICT}" if strict else None


def condition(policy: objects.PeerAuthentication, inherited: bool, older: str | None) -> Condition:
    """What the policy's status says: the mode that it comes to, and on which ports another.

    ``older`` is a policy for the same workloads that counts instead of this one.
    """
    if older is not None:
        text = f"PeerAuthentication {older} is older and counts for the same workloads"
        return Condition(ZTUNNEL_ACCEPTED, False, "Ignored", text)
    own = _mode(policy.spec.mtls)
    strict = inherited if own is None else own
    names = {True: "plaintext is refused", False: "plaintext is let in"}
    text = names[strict] + (" (inherited)" if own is None else "")
    ports = _exceptions(policy, strict) if has_selector(policy) else []
    if ports:
        text += f", except on port{'s' * (len(ports) > 1)} {', '.join(map(str, ports))}"
    texts = (text[0].upper() + text[1:], *remarks(policy))
    reason = "UnsupportedValue" if len(texts) > 1 else "Accepted"
    return Condition(ZTUNNEL_ACCEPTED, True, reason, "; ".join(texts))


def ignored_for(
    policy: objects.PeerAuthentication, others: Iterable[objects.PeerAuthentication]
) -> str | None:
    """The older policy of the namespace that counts for the very same workloads, if any."""

    def meant(one: objects.PeerAuthentication) -> dict[str, str]:
        return (one.spec.selector.match_labels or {}) if one.spec.selector is not None else {}

    found = oldest(one for one in others if meant(one) == meant(policy))
    return found.metadata.name if found is not None and found is not policy else None


def remarks(policy: objects.PeerAuthentication) -> tuple[str, ...]:
    """What the user should know about it, one sentence each."""
    found = []
    modes = [policy.spec.mtls, *(policy.spec.port_level_mtls or {}).values()]
    known = {"STRICT", *_PLAINTEXT_MODES, *_UNSET_MODES}
    found += [
        f"mode {one.mode!r} is unknown and taken as STRICT"
        for one in modes
        if one is not None and (one.mode or "") not in known
    ]
    if policy.spec.port_level_mtls and not has_selector(policy):
        found.append("portLevelMtls needs a selector and is ignored without one")
    if has_selector(policy):
        found += [
            f"port {text!r} of portLevelMtls is no port (1 to 65535) and is ignored"
            for text in policy.spec.port_level_mtls or {}
            if _port(text) is None
        ]
    return tuple(found)


def _exceptions(policy: objects.PeerAuthentication, strict: bool) -> list[int]:
    """Ports whose mode differs from the workload's, ascending."""
    found = set()
    for text, tls in (policy.spec.port_level_mtls or {}).items():
        mode, number = _mode(tls), _port(text)
        if number is not None and mode is not None and mode is not strict:
            found.add(number)
    return sorted(found)


def _port(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() else 0
    return number if 0 < number <= 65535 else None


def _mode(tls: objects.MutualTls | None) -> bool | None:
    """Strict, plaintext allowed, or None for unset."""
    mode = (tls.mode if tls is not None else None) or ""
    if mode in _UNSET_MODES:
        return None
    return mode not in _PLAINTEXT_MODES
