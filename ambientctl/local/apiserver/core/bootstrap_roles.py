"""The roles and bindings that every cluster has from the start (Kubernetes' bootstrap policy)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ambientctl.local.apiserver.core.rbac import RBAC_GROUP, SUPERUSERS
from ambientctl.local.apiserver.core.status import Object

_LABELS: Final = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_READ: Final = ["get", "list", "watch"]
_WRITE: Final = ["create", "delete", "deletecollection", "patch", "update"]
_HEALTH: Final = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
_DISCOVERY: Final = [*_HEALTH, "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"]

_OWN: Final = {
    "": [
        "pods", "services", "endpoints", "configmaps", "serviceaccounts", "pods/eviction",
    ],
    "apps": [
        "deployments", "daemonsets", "replicasets", "deployments/scale", "replicasets/scale",
    ],
    "autoscaling": ["horizontalpodautoscalers"],
    "policy": ["poddisruptionbudgets"],
    "networking.k8s.io": ["networkpolicies"],
}  # fmt: skip
"""What an application in a namespace consists of, by API group."""
_SEEN: Final = {
    "": ["events", "namespaces", "pods/log", "pods/status", "services/status"],
    "discovery.k8s.io": ["endpointslices"],
}
"""What its owner may look at besides."""


def _rules(resources: dict[str, list[str]], verbs: list[str]) -> list[Object]:
    return [
        {"apiGroups": [group], "resources": names, "verbs": verbs}
        for group, names in resources.items()
    ]


def _paths(paths: list[str]) -> list[Object]:
    return [{"nonResourceURLs": paths, "verbs": ["get"]}]


_EVERYTHING: Final[list[Object]] = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
    {"nonResourceURLs": ["*"], "verbs": ["*"]},
]
_VIEW: Final = [*_rules(_OWN, _READ), *_rules(_SEEN, _READ)]
_EDIT: Final = [
    *_VIEW,
    *_rules(_OWN, _WRITE),
    *_rules({"": ["secrets"]}, [*_READ, *_WRITE]),
    *_rules({"": ["serviceaccounts/token"]}, ["create"]),
]
_ADMIN: Final = [
    *_EDIT,
    *_rules({RBAC_GROUP: ["roles", "rolebindings"]}, [*_READ, *_WRITE]),
    *_rules({"authorization.k8s.io": ["localsubjectaccessreviews"]}, ["create"]),
]
_SELF: Final = [
    *_rules(
        {
            "authorization.k8s.io": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            "authentication.k8s.io": ["selfsubjectreviews"],
        },
        ["create"],
    )
]
_REVIEWS: Final = _rules(
    {
        "authentication.k8s.io": ["tokenreviews"],
        "authorization.k8s.io": ["subjectaccessreviews"],
    },
    ["create"],
)

_ROLES: Final[dict[str, tuple[list[Object], tuple[str, ...]]]] = {
    "cluster-admin": (_EVERYTHING, (SUPERUSERS,)),
    "admin": (_ADMIN, ()),
    "edit": (_EDIT, ()),
    "view": (_VIEW, ()),
    "system:auth-delegator": (_REVIEWS, ()),
    "system:basic-user": (_SELF, ("system:authenticated",)),
    "system:discovery": (_paths(_DISCOVERY), ("system:authenticated",)),
    "system:public-info-viewer": (
        _paths(_HEALTH),
        ("system:authenticated", "system:unauthenticated"),
    ),
    "system:service-account-issuer-discovery": (
        _paths(["/.well-known/openid-configuration", "/openid/v1/jwks"]),
        ("system:serviceaccounts",),
    ),
}
"""Rules, and the groups that have them everywhere, by the name of role and binding."""

_AGGREGATED: Final = ("admin", "edit", "view")
"""Those who define a kind may add rules about it to these, by a label on a role of their own."""


def bootstrap_objects() -> Iterator[Object]:
    """ClusterRoles, each with its ClusterRoleBinding if it has one."""
    for name, (rules, groups) in _ROLES.items():
        role: Object = {
            "kind": "ClusterRole",
            "metadata": {"name": name, "labels": dict(_LABELS)},
            "rules": rules,
        }
        if name in _AGGREGATED:
            labels = {f"{RBAC_GROUP}/aggregate-to-{name}": "true"}
            role["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": labels}]}
        yield role
        if groups:
            ref = {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": name}
            subjects = [{"apiGroup": RBAC_GROUP, "kind": "Group", "name": one} for one in groups]
            yield {
                "kind": "ClusterRoleBinding",
                "metadata": {"name": name, "labels": dict(_LABELS)},
                "roleRef": ref,
                "subjects": subjects,
            }
