"""Who may do what: Roles and ClusterRoles, as the bindings give them to a caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from ambientctl.local.apiserver.core.kinds import StorageKey
from ambientctl.local.apiserver.core.selectors import from_object, matches_labels
from ambientctl.local.apiserver.core.status import ApiError, Object, qualified
from ambientctl.local.apiserver.core.store import Store
from ambientctl.local.apiserver.core.tokens import User, account_user_name

RBAC_GROUP: Final = "rbac.authorization.k8s.io"
SUPERUSERS: Final = "system:masters"
"""This group may do everything, whatever the roles say."""
ROLES: Final[StorageKey] = (RBAC_GROUP, "roles")
ROLE_BINDINGS: Final[StorageKey] = (RBAC_GROUP, "rolebindings")
CLUSTER_ROLES: Final[StorageKey] = (RBAC_GROUP, "clusterroles")
CLUSTER_ROLE_BINDINGS: Final[StorageKey] = (RBAC_GROUP, "clusterrolebindings")


class Attributes(NamedTuple):
    """What a request wants to do. ``path`` is set for what is no resource, and all others not."""

    verb: str
    group: str = ""
    resource: str = ""
    """The plural, with its subresource: ``pods/log``."""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Decision(NamedTuple):
    """``reason``: which binding allows it, or what kept the roles from being read."""

    allowed: bool
    reason: str = ""


class Grant(NamedTuple):
    """One rule that somebody has, and through which binding."""

    rule: Object
    source: str


class Authorizer:
    """Answers from the roles and bindings as they are now."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def decide(self, user: User, asked: Attributes) -> Decision:
        """Whether the user may do it."""
        if SUPERUSERS in user.groups:
            return Decision(True)
        missing: list[str] = []
        for grant in self.grants(user, asked.namespace, missing):
            if _allows(grant.rule, asked):
                return Decision(True, f"RBAC: allowed by {grant.source}")
        return Decision(False, f"RBAC: {', '.join(missing)}" if missing else "")

    def require(self, user: User, asked: Attributes) -> None:
        """Raises a 403 that says what the user may not."""
        decision = self.decide(user, asked)
        if not decision.allowed:
            raise refusal(user, asked, decision.reason)

    def grants(
        self, user: User, namespace: str, missing: list[str] | None = None
    ) -> Iterator[Grant]:
        """The user's rules for the cluster, and for a namespace where one is given.

        Roles that are bound and do not exist are added to ``missing``.
        """
        bindings = [("ClusterRoleBinding", self._store.objects(CLUSTER_ROLE_BINDINGS))]
        if namespace:
            bindings.append(("RoleBinding", self._store.objects(ROLE_BINDINGS, namespace)))
        for kind, found in bindings:
            for binding in found:
                if not _binds(binding, user):
                    continue
                metadata, ref = binding["metadata"], binding["roleRef"]
                rules = self.rules_of(ref, metadata.get("namespace", ""))
                if rules is None:
                    if missing is not None:
                        missing.append(f'{ref["kind"].lower()} "{ref["name"]}" not found')
                    continue
                name = "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))
                source = f'{kind} "{name}" of {ref["kind"]} "{ref["name"]}"'
                yield from (Grant(rule, source) for rule in rules)

    def rules_of(self, ref: Mapping[str, str], namespace: str) -> list[Object] | None:
        """The rules behind a ``roleRef``; None where the role does not exist."""
        if ref["kind"] == "Role":
            role = self._store.get(ROLES, namespace, ref["name"])
        else:
            role = self._store.get(CLUSTER_ROLES, "", ref["name"])
        if role is None:
            return None
        rules = list(role.get("rules") or ())
        for selector in (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ():
            wanted = from_object(selector) or ()
            for other in self._store.objects(CLUSTER_ROLES):
                if other is not role and matches_labels(wanted, other):
                    rules += other.get("rules") or ()
        return rules

    def uncovered(self, user: User, rules: Iterable[Object], namespace: str) -> list[Attributes]:
        """What the rules allow and the user may not do: nobody may give more than they have."""
        return [
            asked
            for rule in rules
            for asked in _everything(rule, namespace)
            if not self.decide(user, asked).allowed
        ]


def refusal(user: User, asked: Attributes, reason: str = "") -> ApiError:
    """The 403 in Kubernetes' words."""
    if asked.path:
        text = f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"'
        return ApiError(403, "Forbidden", _joined(text, reason), {})
    plural, _, _ = asked.resource.partition("/")
    named = f' "{asked.name}"' if asked.name else ""
    where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    text = (
        f'{qualified(asked.group, plural)}{named} is forbidden: User "{user.name}" cannot '
        f'{asked.verb} resource "{asked.resource}" in API group "{asked.group}" {where}'
    )
    details = {"name": asked.name, "group": asked.group, "kind": plural}
    return ApiError(403, "Forbidden", _joined(text, reason), details)


def _joined(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text


def _binds(binding: Object, user: User) -> bool:
    home = binding["metadata"].get("namespace", "")
    for subject in binding.get("subjects") or ():
        match subject.get("kind"):
            case "User" if subject["name"] == user.name:
                return True
            case "Group" if subject["name"] in user.groups:
                return True
            case "ServiceAccount":
                namespace = subject.get("namespace") or home
                if account_user_name(namespace, subject["name"]) == user.name:
                    return True
            case _:
                pass
    return False


def _allows(rule: Object, asked: Attributes) -> bool:
    if not _has(rule.get("verbs"), asked.verb):
        return False
    if asked.path:
        return any(_path_matches(one, asked.path) for one in rule.get("nonResourceURLs") or ())
    names = rule.get("resourceNames") or ()
    return (
        _has(rule.get("apiGroups"), asked.group)
        and _has_resource(rule.get("resources") or (), asked.resource)
        and (not names or asked.name in names)
    )


def _has(values: Iterable[str] | None, wanted: str) -> bool:
    return any(one in ("*", wanted) for one in values or ())


def _has_resource(resources: Iterable[str], wanted: str) -> bool:
    _, _, subresource = wanted.partition("/")
    accepted = {"*", wanted, f"*/{subresource}"} if subresource else {"*", wanted}
    return not accepted.isdisjoint(resources)


def _path_matches(pattern: str, path: str) -> bool:
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1])
    return path == pattern


def _everything(rule: Object, namespace: str) -> Iterator[Attributes]:
    """A rule as single rights; ``*`` stays itself, and is only covered by a ``*``."""
    for verb in rule.get("verbs") or ():
        for path in rule.get("nonResourceURLs") or ():
            yield Attributes(verb, path=path)
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                for name in rule.get("resourceNames") or ("",):
                    yield Attributes(verb, group, resource, namespace, name)
