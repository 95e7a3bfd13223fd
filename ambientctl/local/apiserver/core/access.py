"""Who asks, and what that caller may do."""

from __future__ import annotations

import datetime
import hmac
from collections.abc import Callable
from typing import Final

from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.patches import APPLY_PATCH
from ambientctl.local.apiserver.core.rbac import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    RBAC_GROUP,
    ROLE_BINDINGS,
    ROLES,
    SUPERUSERS,
    Attributes,
    Authorizer,
    refusal,
)
from ambientctl.local.apiserver.core.requests import Request, Target
from ambientctl.local.apiserver.core.status import (
    Object,
    forbidden,
    method_not_allowed,
    unauthorized,
)
from ambientctl.local.apiserver.core.tokens import (
    TokenAuthority,
    TokenError,
    User,
    account_groups,
    account_of,
)

ADMIN: Final = User("kubernetes-admin", groups=(SUPERUSERS, "system:authenticated"))
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}


class Access:
    """Authentication by bearer token, authorization by roles."""

    def __init__(
        self,
        authority: TokenAuthority,
        authorizer: Authorizer,
        admin_token: str,
        now: Callable[[], datetime.datetime],
    ) -> None:
        self._authority = authority
        self.authorizer = authorizer
        self._admin_token = admin_token
        self._now = now

    def user_of(self, request: Request) -> User:
        """The caller behind the bearer token, or whom that caller may speak for; raises a 401, or
        a 403. The administrator's token is compared in constant time.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise unauthorized()
        token = token.strip()
        if hmac.compare_digest(token.encode(), self._admin_token.encode()):
            return self._impersonated(ADMIN, request)
        try:
            user = self._authority.authenticate(token, (), int(self._now().timestamp()))[0]
        except TokenError:
            raise unauthorized() from None
        return self._impersonated(user, request)

    def _impersonated(self, user: User, request: Request) -> User:
        """``Impersonate-User`` and ``Impersonate-Group``, as ``kubectl --as`` sends them."""
        name = request.headers.get("impersonate-user", "")
        groups = tuple(filter(None, request.headers.get("impersonate-group", "").split(",")))
        if not name:
            return user
        account = account_of(name)
        if account is not None:
            namespace, account_name = account
            asked = Attributes("impersonate", "", "serviceaccounts", namespace, account_name)
        else:
            asked = Attributes("impersonate", "", "users", name=name)
        self.authorizer.require(user, asked)
        for group in groups:
            self.authorizer.require(user, Attributes("impersonate", "", "groups", name=group))
        if not groups and account is not None:
            return User(name, groups=account_groups(account[0]))
        return User(name, groups=(*groups, "system:authenticated"))

    def require_path(self, user: User, request: Request) -> None:
        """Raises a 403 for a path that is no resource."""
        verb = request.method.lower() if request.method != "HEAD" else "get"
        path = request.path if request.path == "/" else request.path.rstrip("/")
        self.authorizer.require(user, Attributes(verb, path=path))

    def require(self, user: User, request: Request, target: Target, *, exists: bool = True) -> None:
        """Raises a 403 unless the user may do this to the resource; an apply that would create
        (``exists`` is false) needs the right to create, too.
        """
        verb = verb_of(request, target)
        resource = "/".join(filter(None, (target.plural, target.subresource)))
        # A namespace is inside itself: rights in it include rights on it.
        namespace = target.namespace
        if (target.group, target.plural) == ("", "namespaces"):
            namespace = target.name
        asked = Attributes(verb, target.group, resource, namespace, target.name)
        self.authorizer.require(user, asked)
        if verb == "patch" and not exists and request.media_type == APPLY_PATCH:
            self.authorizer.require(user, asked._replace(verb="create"))

    def forbid_escalation(self, user: User, kind: Kind, obj: Object) -> None:
        """Raises a 403 if a role or binding would give more than its author has."""
        if kind.group != RBAC_GROUP or SUPERUSERS in user.groups:
            return
        metadata = obj["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        if kind.key in (ROLES, CLUSTER_ROLES):
            asked = Attributes("escalate", kind.group, kind.plural, namespace, name)
            rules = obj.get("rules") or []
        elif kind.key in (ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS):
            ref = obj["roleRef"]
            plural = "roles" if ref["kind"] == "Role" else "clusterroles"
            asked = Attributes("bind", kind.group, plural, namespace, ref["name"])
            rules = self.authorizer.rules_of(ref, namespace) or []
        else:
            return
        if self.authorizer.decide(user, asked).allowed:
            return
        lacking = self.authorizer.uncovered(user, rules, namespace)
        if lacking:
            first = refusal(user, lacking[0])
            why = f"the user may not give rights that they do not have: {first.message}"
            raise forbidden(kind.group, kind.plural, name, why)


def verb_of(request: Request, target: Target) -> str:
    """What RBAC calls the request; raises a 405 for a method that is no verb."""
    match request.method:
        case "GET" | "HEAD":
            if request.flag("watch"):
                return "watch"
            return "get" if target.name else "list"
        case "DELETE":
            return "delete" if target.name else "deletecollection"
        case method if method in _VERBS:
            return _VERBS[method]
        case method:
            raise method_not_allowed(method)
