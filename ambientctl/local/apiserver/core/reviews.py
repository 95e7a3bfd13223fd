"""Kinds that are questions: TokenReview, SelfSubjectReview and the access reviews."""

from __future__ import annotations

from typing import Any

from ambientctl.local.apiserver.core.builtin_types import conform_as
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.tokens import TokenAuthority, TokenError, User


def review(kind: Kind, body: Any, user: User, authority: TokenAuthority, now_s: int) -> Object:
    """The same object with its answer in ``status``."""
    asked = conform_as(kind.group, kind.kind, body)
    match kind.kind:
        case "TokenReview":
            status = _token_status(asked.get("spec") or {}, authority, now_s)
        case "SelfSubjectReview":
            status = {"userInfo": user.info()}
        case _:
            # Who may do what is not enforced here: every authenticated caller may.
            status = {"allowed": True, "reason": "the local mesh does not enforce RBAC"}
    return {**asked, "apiVersion": kind.api_version, "kind": kind.kind, "status": status}


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
