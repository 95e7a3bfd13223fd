"""May this caller have a certificate for this identity?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from ambient.api.spiffe import Identity
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.inputs import Inputs

ACCOUNTS_GROUP: Final = "system:serviceaccounts"
USERNAME_PREFIX: Final = "system:serviceaccount:"
POD_NAME_EXTRA: Final = "authentication.kubernetes.io/pod-name"
POD_UID_EXTRA: Final = "authentication.kubernetes.io/pod-uid"


class RefusedError(Exception):
    """Not for this caller; the text is for our log, the caller learns only that it was refused.

    ``may_pass``: the reason is a pod that is not known, which may be a matter of moments.
    ``public``: the reason is about the caller alone, who is who it says; it may read it.
    """

    def __init__(self, reason: str, *, may_pass: bool = False, public: bool = False) -> None:
        super().__init__(reason)
        self.may_pass = may_pass
        self.public = public


class Caller(NamedTuple):
    """Whose token it was; the pod is empty for tokens that are not bound to one."""

    namespace: str
    service_account: str
    pod_name: str = ""
    pod_uid: str = ""

    @property
    def account(self) -> str:
        """As settings spell it."""
        return f"{self.namespace}/{self.service_account}"


def caller_of(status: Mapping[str, Any], audience: str) -> Caller:
    """The caller that a TokenReview's status speaks of. Raises RefusedError."""
    if status.get("authenticated") is not True:
        raise RefusedError(f"the token is not valid: {status.get('error') or 'no reason given'}")
    audiences = status.get("audiences")
    if audiences is not None and audience not in audiences:
        raise RefusedError(f"the token is for {audiences}, not for {audience}")
    user = status.get("user") or {}
    username = str(user.get("username", ""))
    if ACCOUNTS_GROUP not in (user.get("groups") or ()):
        raise RefusedError(f"{username!r} is no service account")
    parts = username.removeprefix(USERNAME_PREFIX).split(":")
    if not username.startswith(USERNAME_PREFIX) or len(parts) != 2 or not all(parts):
        raise RefusedError(f"{username!r} is no service account")
    extra = user.get("extra") or {}
    return Caller(parts[0], parts[1], _single(extra, POD_NAME_EXTRA), _single(extra, POD_UID_EXTRA))


def own_identity(caller: Caller, trust_domain: str) -> Identity:
    """What a caller gets that asks for nobody else."""
    return Identity(trust_domain, caller.namespace, caller.service_account)


def impersonated(
    caller: Caller,
    requested: str,
    inputs: Inputs,
    *,
    trust_domain: str,
    trusted_accounts: Collection[str],
) -> Identity:
    """The identity that a node's tunnel may have for a pod of its own node, or for a WorkloadEntry
    that says of itself that it runs there. Raises RefusedError."""
    if caller.account not in trusted_accounts:
        trusted = ", ".join(sorted(trusted_accounts)) or "nobody"
        raise RefusedError(
            f"account {caller.account} may not ask for other identities, only {trusted} may: "
            "run the node tunnel as that account, or set CA_TRUSTED_NODE_ACCOUNTS on the "
            f"control plane to {caller.account}",
            public=True,
        )
    try:
        identity = Identity.parse(requested)
    except ValueError as error:
        raise RefusedError(str(error)) from None
    if identity.trust_domain != trust_domain:
        raise RefusedError(f"{requested} is not of trust domain {trust_domain}")
    if not caller.pod_name or not caller.pod_uid:
        raise RefusedError(f"the token of {caller.account} is not bound to a pod")
    pod = inputs.pods.get(ObjectKey(caller.namespace, caller.pod_name))
    place = f"{caller.namespace}/{caller.pod_name}"
    if pod is None:
        raise RefusedError(f"pod {place} is not known", may_pass=True)
    if pod.metadata.uid != caller.pod_uid:
        raise RefusedError(f"pod {place} is not the one that the token is for")
    if pod.service_account != caller.service_account:
        raise RefusedError(f"pod {place} does not run as {caller.account}")
    node = pod.spec.node_name
    wanted = (identity.namespace, identity.service_account)
    for other in inputs.pods.by("node", node):
        if (other.metadata.namespace, other.service_account) == wanted and not _failed(other):
            return identity
    for entry in inputs.workload_entries.by("node", node):
        if (entry.metadata.namespace, entry.spec.service_account) == wanted:
            return identity
    raise RefusedError(f"no pod on node {node} runs as {wanted[0]}/{wanted[1]}", may_pass=True)


def _failed(pod: Any) -> bool:
    return bool(pod.status.phase == "Failed")


def _single(extra: Mapping[str, Any], key: str) -> str:
    values: Any = extra.get(key) or ()
    return str(values[0]) if len(values) == 1 else ""
