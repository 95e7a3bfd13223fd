"""Service account tokens: issued, read, and judged against the objects they are bound to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from ambientctl.local.apiserver.core.kinds import NODES, PODS, SECRETS, SERVICE_ACCOUNTS
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Store

DEFAULT_LIFETIME_S: Final = 3600
MIN_LIFETIME_S: Final = (
    600  # TokenRequest validation: "may not specify a duration less than 10 minutes"
)
MAX_LIFETIME_S: Final = 365 * 24 * 3600
_ALGORITHM: Final = "ES256"
_KEY_ID: Final = "service-account"


class User(NamedTuple):
    """Who asks. ``extra`` holds what a token says besides, such as the pod it is bound to."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = {}  # noqa: RUF012 (never changed)

    def info(self) -> Object:
        """As ``status.user`` of a review."""
        info: Object = {"username": self.name, "groups": list(self.groups)}
        if self.uid:
            info["uid"] = self.uid
        if self.extra:
            info["extra"] = self.extra
        return info


class TokenError(Exception):
    """A token that authenticates nobody, and why."""


class TokenAuthority:
    """Signs tokens with a key of its own and recognises them again."""

    def __init__(self, store: Store, issuer: str) -> None:
        self._store = store
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.issuer = issuer

    def issue(self, account: Object, request: Object, bound: Object | None, now_s: int) -> Object:
        """Token and expiry for this account; ``bound`` is the pod, node or secret."""
        spec = request.get("spec") or {}
        lifetime_s = int(spec.get("expirationSeconds") or DEFAULT_LIFETIME_S)
        expires_s = now_s + min(lifetime_s, MAX_LIFETIME_S)
        metadata = account["metadata"]
        private: Object = {
            "namespace": metadata["namespace"],
            "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
        }
        if bound is not None:
            private |= self._bound_claims(bound)
        claims = {
            "aud": list(spec.get("audiences") or [self.issuer]),
            "exp": expires_s,
            "iat": now_s,
            "nbf": now_s,
            "iss": self.issuer,
            "kubernetes.io": private,
            "sub": account_user_name(metadata["namespace"], metadata["name"]),
        }
        token = jwt.encode(claims, self._key, _ALGORITHM, headers={"kid": _KEY_ID})
        return {"token": token, "expires_s": expires_s}

    def _bound_claims(self, bound: Object) -> Object:
        """What the token says about the object it is bound to, and a pod's token about its node."""
        metadata = bound["metadata"]
        kind = bound["kind"].lower()
        claims: Object = {kind: {"name": metadata["name"], "uid": metadata["uid"]}}
        if kind == "pod" and (node_name := bound["spec"].get("nodeName")):
            node = self._store.get(NODES, "", node_name)
            claims["node"] = {"name": node_name}
            if node is not None:
                claims["node"]["uid"] = node["metadata"]["uid"]
        return claims

    def authenticate(
        self, token: str, audiences: Sequence[str], now_s: int
    ) -> tuple[User, list[str]]:
        """Whose token this is, and which of the audiences it is for.

        Raises TokenError when it is not ours, expired, for somebody else, or bound to an object
        that is gone.
        """
        try:
            claims = jwt.decode(
                token,
                self._key.public_key(),
                [_ALGORITHM],
                issuer=self.issuer,
                # Time is an argument here, so the library must not look at its own clock.
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,
                },
            )
        except jwt.PyJWTError as error:
            raise TokenError(f"invalid bearer token: {error}") from None
        if now_s >= claims["exp"]:
            raise TokenError("service account token has expired")
        wanted = list(audiences) or [self.issuer]
        shared = [audience for audience in wanted if audience in claims["aud"]]
        if not shared:
            raise TokenError(
                f"token audiences {claims['aud']!r} is invalid for the target audiences {wanted!r}"
            )
        return self._user(claims["kubernetes.io"]), shared

    def _user(self, claims: Any) -> User:
        """The user of a valid token, as TokenReview describes it."""
        namespace = claims["namespace"]
        account = claims["serviceaccount"]
        self._require(SERVICE_ACCOUNTS, namespace, account, "service account")
        extra: dict[str, list[str]] = {}
        for kind, key in (("pod", PODS), ("secret", SECRETS)):
            if (bound := claims.get(kind)) is not None:
                self._require(key, namespace, bound, kind)
        if (pod := claims.get("pod")) is not None:
            extra["authentication.kubernetes.io/pod-name"] = [pod["name"]]
            extra["authentication.kubernetes.io/pod-uid"] = [pod["uid"]]
        if (node := claims.get("node")) is not None:
            extra["authentication.kubernetes.io/node-name"] = [node["name"]]
            if "uid" in node:
                extra["authentication.kubernetes.io/node-uid"] = [node["uid"]]
        name = account_user_name(namespace, account["name"])
        return User(name, account["uid"], account_groups(namespace), extra)

    def _require(self, key: tuple[str, str], namespace: str, claim: Object, noun: str) -> None:
        """Raise unless the very object that the claim names (by uid) still exists."""
        found = self._store.get(key, namespace, claim["name"])
        if found is None or found["metadata"]["uid"] != claim["uid"]:
            raise TokenError(f"{noun} {namespace}/{claim['name']} of the token no longer exists")

    def jwks(self) -> Object:
        """The public key, as ``/openid/v1/jwks`` serves it."""
        key = jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [{**key, "use": "sig", "alg": _ALGORITHM, "kid": _KEY_ID}]}


def account_user_name(namespace: str, name: str) -> str:
    """``system:serviceaccount:<namespace>:<name>``."""
    return f"system:serviceaccount:{namespace}:{name}"


def account_of(user_name: str) -> tuple[str, str] | None:
    """(namespace, name) of a service account's user name; None for anybody else."""
    match user_name.split(":"):
        case ["system", "serviceaccount", namespace, name]:
            return namespace, name
        case _:
            return None


def account_groups(namespace: str) -> tuple[str, ...]:
    """The groups of every service account of a namespace."""
    return (
        "system:serviceaccounts",
        f"system:serviceaccounts:{namespace}",
        "system:authenticated",
    )
