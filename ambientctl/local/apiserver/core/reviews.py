"""Kinds that are questions: TokenReview, SelfSubjectReview and the access reviews."""

from __future__ import annotations

from typing import Any

from ambientctl.local.apiserver.core.builtin_types import conform_as
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.rbac import SUPERUSERS, Attributes, Authorizer
from ambientctl.local.apiserver.core.status import Object, bad_value, invalid
from ambientctl.local.apiserver.core.tokens import TokenAuthority, TokenError, User


class Reviewer:
    """Answers from the tokens and roles of one cluster."""

    def __init__(self, authority: TokenAuthority, authorizer: Authorizer) -> None:
        self._authority = authority
        self._authorizer = authorizer

    def review(self, kind: Kind, body: Any, user: User, now_s: int) -> Object:
        """The same object with its answer in ``status``. Raises a 400, or a 422."""
        asked = conform_as(kind.group, kind.kind, body)
        spec = asked.get("spec") or {}
        match kind.kind:
            case "TokenReview":
                status = _token_status(spec, self._authority, now_s)
            case "SelfSubjectReview":
                status = {"userInfo": user.info()}
            case "SelfSubjectRulesReview":
                status = self._rules(user, spec.get("namespace", ""))
            case _:
                status = self._access(kind, spec, user)
        return {**asked, "apiVersion": kind.api_version, "kind": kind.kind, "status": status}

    def _access(self, kind: Kind, spec: Object, user: User) -> Object:
        """May the user of the spec, or whoever asks, do what it says?"""
        resource, other = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if (resource is None) == (other is None):
            field = "spec.resourceAttributes"
            detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            raise invalid(kind.group, kind.kind, "", [bad_value(field, resource, detail)])
        if not kind.kind.startswith("Self"):
            if not spec.get("user") and not spec.get("groups"):
                detail = "at least one of user or group must be specified"
                raise invalid(kind.group, kind.kind, "", [bad_value("spec.user", "", detail)])
            user = User(spec.get("user", ""), groups=tuple(spec.get("groups") or ()))
        decision = self._authorizer.decide(user, _attributes(resource, other))
        status: Object = {"allowed": decision.allowed}
        return {**status, "reason": decision.reason} if decision.reason else status

    def _rules(self, user: User, namespace: str) -> Object:
        """What ``kubectl auth can-i --list`` shows."""
        resources: list[Object] = []
        paths: list[Object] = []
        if SUPERUSERS in user.groups:
            resources.append({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
            paths.append({"verbs": ["*"], "nonResourceURLs": ["*"]})
        for grant in self._authorizer.grants(user, namespace):
            rule = grant.rule
            (paths if rule.get("nonResourceURLs") else resources).append(rule)
        return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}


def _attributes(resource: Object | None, other: Object | None) -> Attributes:
    if resource is None:
        other = other or {}
        return Attributes(other.get("verb", ""), path=other.get("path", ""))
    plural = "/".join(filter(None, (resource.get("resource", ""), resource.get("subresource"))))
    return Attributes(
        resource.get("verb", ""),
        resource.get("group", ""),
        plural,
        resource.get("namespace", ""),
        resource.get("name", ""),
    )


def _token_status(spec: Object, authority: TokenAuthority, now_s: int) -> Object:
    token = spec.get("token")
    if not token:
        return {"authenticated": False, "user": {}, "error": "no token was given in spec.token"}
    audiences = spec.get("audiences") or []
    try:
        user, shared = authority.authenticate(token, audiences, now_s)
    except TokenError as error:
        return {"authenticated": False, "user": {}, "error": str(error)}
    return {"authenticated": True, "user": user.info(), "audiences": shared}
