"""The kinds this server knows from the start, and what a kind is."""

from __future__ import annotations

import re

import msgspec

from ambientctl.local.apiserver.core.status import Object

StorageKey = tuple[str, str]
"""(group, plural): all versions of a resource share one storage."""

STATUS = frozenset({"status"})
SCALED = frozenset({"status", "scale"})
ALL_VERBS = (
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
)


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One resource in one version: how it is named, and what it can do."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    verbs: tuple[str, ...] = ALL_VERBS
    singular: str = ""
    list_kind: str = ""
    schema: Object | None = None
    """Structural schema of a custom resource; None: not checked by a schema."""
    columns: tuple[Object, ...] = ()
    """additionalPrinterColumns of a custom resource."""
    custom: bool = False
    """Made by a CustomResourceDefinition."""

    @property
    def api_version(self) -> str:
        """``v1`` or ``apps/v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> StorageKey:
        """Where its objects are stored; both spellings of an event share one place."""
        if self.group == "events.k8s.io":
            return EVENTS
        return (self.group, self.plural)

    @property
    def singular_name(self) -> str:
        """``pod`` for Pod."""
        return self.singular or self.kind.lower()

    @property
    def list_name(self) -> str:
        """``PodList`` for Pod."""
        return self.list_kind or f"{self.kind}List"


def _core(kind: str, plural: str, short: str = "", **more: object) -> Kind:
    return _kind("", "v1", kind, plural, short, **more)


def _kind(  # one row of the table below
    group: str, version: str, kind: str, plural: str, short: str = "", **more: object
) -> Kind:
    names = tuple(short.split())
    fields = {"group": group, "version": version, "kind": kind, "plural": plural, **more}
    return msgspec.convert({**fields, "short_names": names}, Kind)


_STRING: Object = {"type": "string"}
_STRINGS: Object = {"type": "array", "items": _STRING}
_ANYTHING: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _fields(**properties: Object) -> Object:
    return {"type": "object", "properties": properties}


_CRD_NAMES = _fields(
    plural=_STRING,
    singular=_STRING,
    kind=_STRING,
    listKind=_STRING,
    shortNames=_STRINGS,
    categories=_STRINGS,
)
_CRD_COLUMN = _fields(
    name=_STRING,
    type=_STRING,
    format=_STRING,
    description=_STRING,
    jsonPath=_STRING,
    priority={"type": "integer"},
)
_CRD_VERSION = _fields(
    name=_STRING,
    served={"type": "boolean"},
    storage={"type": "boolean"},
    deprecated={"type": "boolean"},
    deprecationWarning=_STRING,
    schema=_fields(openAPIV3Schema=_ANYTHING),
    subresources=_fields(status=_ANYTHING, scale=_ANYTHING),
    additionalPrinterColumns={
        "type": "array",
        "items": {**_CRD_COLUMN, "required": ["name", "type", "jsonPath"]},
    },
    selectableFields={"type": "array", "items": _ANYTHING},
)
_CRD_SPEC = _fields(
    group=_STRING,
    scope=_STRING,
    names=_CRD_NAMES,
    versions={"type": "array", "items": {**_CRD_VERSION, "required": ["name"]}},
    conversion=_ANYTHING,
    preserveUnknownFields={"type": "boolean"},
)
_CRD_SCHEMA: Object = _fields(spec=_CRD_SPEC, status=_ANYTHING)
"""What a CustomResourceDefinition may hold; the schemas inside are read by ``schema.py``."""

_ALL = ("all",)
_CREATE = ("create",)
_RBAC = "rbac.authorization.k8s.io"

BUILTIN: tuple[Kind, ...] = (
    _core("Namespace", "namespaces", "ns", namespaced=False, subresources={"status", "finalize"}),
    _core("Node", "nodes", "no", namespaced=False, subresources=STATUS),
    _core(
        "Pod",
        "pods",
        "po",
        categories=_ALL,
        subresources={
            "status",
            "log",
            "portforward",
            "exec",
            "attach",
            "binding",
            "eviction",
        },
    ),
    _core("Service", "services", "svc", categories=_ALL, subresources=STATUS),
    _core("Endpoints", "endpoints", "ep"),
    _core("ServiceAccount", "serviceaccounts", "sa", subresources={"token"}),
    _core("ConfigMap", "configmaps", "cm"),
    _core("Secret", "secrets"),
    _core("Event", "events", "ev"),
    _kind(
        "apps", "v1", "Deployment", "deployments", "deploy", categories=_ALL, subresources=SCALED
    ),
    _kind("apps", "v1", "ReplicaSet", "replicasets", "rs", categories=_ALL, subresources=SCALED),
    _kind("apps", "v1", "DaemonSet", "daemonsets", "ds", categories=_ALL, subresources=STATUS),
    _kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    _kind("coordination.k8s.io", "v1", "Lease", "leases"),
    _kind("events.k8s.io", "v1", "Event", "events", "ev"),
    _kind(
        "policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", subresources=STATUS
    ),
    _kind(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "hpa",
        categories=_ALL,
        subresources=STATUS,
    ),
    _kind(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "crd crds",
        namespaced=False,
        categories=("api-extensions",),
        subresources=STATUS,
        schema=_CRD_SCHEMA,
    ),
    _kind(_RBAC, "v1", "Role", "roles"),
    _kind(_RBAC, "v1", "RoleBinding", "rolebindings"),
    _kind(_RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False),
    _kind(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    # Clients look for them; there are none, see validation.py.
    _kind(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        categories=("api-extensions",),
        namespaced=False,
    ),
    _kind(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        categories=("api-extensions",),
        namespaced=False,
    ),
    _kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "netpol"),
    # Nothing here serves them; Istio waits for their lists.
    _kind("networking.k8s.io", "v1", "Ingress", "ingresses", "ing", subresources=STATUS),
    _kind("networking.k8s.io", "v1", "IngressClass", "ingressclasses", namespaced=False),
    _kind(
        "authentication.k8s.io",
        "v1",
        "TokenReview",
        "tokenreviews",
        namespaced=False,
        verbs=_CREATE,
    ),
    _kind(
        "authentication.k8s.io",
        "v1",
        "SelfSubjectReview",
        "selfsubjectreviews",
        namespaced=False,
        verbs=_CREATE,
    ),
    _kind(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        namespaced=False,
        verbs=_CREATE,
    ),
    _kind(
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        namespaced=False,
        verbs=_CREATE,
    ),
    _kind(
        "authorization.k8s.io",
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        verbs=_CREATE,
    ),
    _kind(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        namespaced=False,
        verbs=_CREATE,
    ),
)

NAMESPACES: StorageKey = ("", "namespaces")
NODES: StorageKey = ("", "nodes")
PODS: StorageKey = ("", "pods")
SERVICES: StorageKey = ("", "services")
SERVICE_ACCOUNTS: StorageKey = ("", "serviceaccounts")
EVENTS: StorageKey = ("", "events")
SECRETS: StorageKey = ("", "secrets")
DEPLOYMENTS: StorageKey = ("apps", "deployments")
REPLICA_SETS: StorageKey = ("apps", "replicasets")
DAEMON_SETS: StorageKey = ("apps", "daemonsets")
ENDPOINT_SLICES: StorageKey = ("discovery.k8s.io", "endpointslices")
VALIDATING_WEBHOOKS: StorageKey = (
    "admissionregistration.k8s.io",
    "validatingwebhookconfigurations",
)
CRDS: StorageKey = ("apiextensions.k8s.io", "customresourcedefinitions")


class Catalogue:
    """Which kinds are served now: the built-in ones and those of the CRDs."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], Kind] = {}
        for kind in BUILTIN:
            self.add(kind)

    def add(self, kind: Kind) -> None:
        """Serve this kind (or its newer form) from now on."""
        self._kinds[kind.group, kind.version, kind.plural] = kind

    def remove(self, key: StorageKey) -> None:
        """Serve no version of this resource any more."""
        for found in [k for k in self._kinds.values() if k.key == key]:
            del self._kinds[found.group, found.version, found.plural]

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """The kind behind a URL."""
        return self._kinds.get((group, version, plural))

    def of(self, api_version: str, kind: str) -> Kind | None:
        """The kind of a manifest."""
        return next(
            (k for k in self._kinds.values() if k.kind == kind and k.api_version == api_version),
            None,
        )

    def at(self, key: StorageKey) -> Kind | None:
        """One served version of a storage."""
        return next((k for k in self._kinds.values() if k.key == key), None)

    def all(self) -> list[Kind]:
        """Every served kind, in the order of registration."""
        return list(self._kinds.values())

    def groups(self) -> dict[str, list[str]]:
        """Group to its versions, the preferred one first; the core group is ``""``."""
        found: dict[str, list[str]] = {}
        for kind in self._kinds.values():
            versions = found.setdefault(kind.group, [])
            if kind.version not in versions:
                versions.append(kind.version)
        return {group: sorted(versions, key=version_rank) for group, versions in found.items()}


def version_rank(version: str) -> tuple[int, int, int, str]:
    """Kubernetes' order of versions: v2, v1, v1beta2, v1beta1, v1alpha1, then anything else."""
    match = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if match is None:
        return (3, 0, 0, version)
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return (stage, -int(match[1]), -int(match[3] or 0), "")
