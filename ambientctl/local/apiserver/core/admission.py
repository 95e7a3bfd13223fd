"""What happens to a new object before it is stored: the namespace rule and the pod's account."""

from __future__ import annotations

from typing import Final

from ambientctl.local.apiserver.core.kinds import NAMESPACES, Kind
from ambientctl.local.apiserver.core.status import Cause, Object, forbidden, not_found

TOKEN_MOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_VOLUME_PREFIX: Final = "kube-api-access-"
TOKEN_SECONDS: Final = 3607
"""What real clusters ask for: an hour, marked by the odd seven as asked for by admission."""
ROOT_CA_CONFIG_MAP: Final = "kube-root-ca.crt"


def check_namespace(kind: Kind, name: str, namespace: Object | None, wanted: str) -> None:
    """Raise unless objects of this kind may be made in the namespace now."""
    if namespace is None:
        raise not_found(*NAMESPACES, wanted)
    if namespace["metadata"].get("deletionTimestamp"):
        why = f"unable to create new content in namespace {wanted} because it is being terminated"
        error = forbidden(kind.group, kind.plural, name, why)
        cause = Cause(
            "NamespaceTerminating", f"namespace {wanted} is being terminated", "metadata.namespace"
        )
        assert error.details is not None
        error.details["causes"] = [cause._asdict()]
        raise error


def give_account(pod: Object, account: Object, suffix: str) -> None:
    """Let the pod run as the account: pull secrets, and the token where it is wanted."""
    spec = pod["spec"]
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]
    wanted = spec.get("automountServiceAccountToken")
    if wanted is None:
        wanted = account.get("automountServiceAccountToken", True)
    if wanted:
        _mount_token(spec, TOKEN_VOLUME_PREFIX + suffix)


def _mount_token(spec: Object, volume_name: str) -> None:
    lacking = [
        container
        for part in ("initContainers", "containers")
        for container in spec.get(part) or ()
        if all(
            mount.get("mountPath") != TOKEN_MOUNT for mount in container.get("volumeMounts") or ()
        )
    ]
    if not lacking:
        return
    mount = {"name": volume_name, "readOnly": True, "mountPath": TOKEN_MOUNT}
    for container in lacking:
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]
    root_ca = {"name": ROOT_CA_CONFIG_MAP, "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    namespace = {
        "path": "namespace",
        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
    }
    sources = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": root_ca},
        {"downwardAPI": {"items": [namespace]}},
    ]
    volume = {"name": volume_name, "projected": {"sources": sources, "defaultMode": 0o644}}
    spec["volumes"] = [*(spec.get("volumes") or ()), volume]
