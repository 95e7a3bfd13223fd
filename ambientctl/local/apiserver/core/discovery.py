"""What the server tells about itself: groups, versions, resources."""

from __future__ import annotations

from typing import Final

from ambientctl.local.apiserver.core.kinds import Catalogue, Kind
from ambientctl.local.apiserver.core.status import Object, path_not_found

GIT_VERSION: Final = "v1.32.0+ambient"
"""The Kubernetes release whose behaviour is followed; clients compare minor versions with it."""

AGGREGATED: Final = "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"

VERSION: Final[Object] = {
    "major": "1",
    "minor": "32",
    "gitVersion": GIT_VERSION,
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}

_SUBRESOURCE_KINDS: Final[dict[str, tuple[str, str, str, tuple[str, ...]]]] = {
    "log": ("", "v1", "Pod", ("get",)),
    "exec": ("", "v1", "PodExecOptions", ("create", "get")),
    "attach": ("", "v1", "PodAttachOptions", ("create", "get")),
    "portforward": ("", "v1", "PodPortForwardOptions", ("create", "get")),
    "binding": ("", "v1", "Binding", ("create",)),
    "eviction": ("policy", "v1", "Eviction", ("create",)),
    "token": ("authentication.k8s.io", "v1", "TokenRequest", ("create",)),
    "scale": ("autoscaling", "v1", "Scale", ("get", "patch", "update")),
    "finalize": ("", "v1", "Namespace", ("update",)),
}


def api_versions() -> Object:
    """``/api``."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list(catalogue: Catalogue) -> Object:
    """``/apis``."""
    groups = [_group(name, versions) for name, versions in catalogue.groups().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(catalogue: Catalogue, name: str) -> Object:
    """``/apis/<group>``; raises a 404."""
    versions = catalogue.groups().get(name)
    if not name or versions is None:
        raise path_not_found()
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}


def _group(name: str, versions: list[str]) -> Object:
    spelled = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": spelled, "preferredVersion": spelled[0]}


def resource_list(catalogue: Catalogue, name: str, version: str) -> Object:
    """``/api/v1`` and ``/apis/<group>/<version>``; raises a 404."""
    kinds = [k for k in catalogue.all() if (k.group, k.version) == (name, version)]
    if not kinds:
        raise path_not_found()
    resources = []
    for kind in kinds:
        resources.append(_resource(kind))
        resources += [_subresource(kind, part) for part in sorted(kind.subresources)]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].api_version,
        "resources": resources,
    }


def _resource(kind: Kind) -> Object:
    found: Object = {
        "name": kind.plural,
        "singularName": kind.singular_name,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        found["shortNames"] = list(kind.short_names)
    if kind.categories:
        found["categories"] = list(kind.categories)
    return found


def _subresource(kind: Kind, part: str) -> Object:
    found: Object = {
        "name": f"{kind.plural}/{part}",
        "singularName": "",
        "namespaced": kind.namespaced,
    }
    if part in _SUBRESOURCE_KINDS:
        group, version, name, verbs = _SUBRESOURCE_KINDS[part]
        own = {"group": group, "version": version} if group != kind.group else {}
        return {**found, **own, "kind": name, "verbs": list(verbs)}
    return {**found, "kind": kind.kind, "verbs": ["get", "patch", "update"]}


def aggregated(catalogue: Catalogue, version: str, *, core: bool) -> Object:
    """All groups with their resources in one document (``apidiscovery.k8s.io``)."""
    items = []
    for name, versions in catalogue.groups().items():
        if (name == "") is not core:
            continue
        metadata = {"name": name, "creationTimestamp": None}
        items.append(
            {"metadata": metadata, "versions": [_version(catalogue, name, v) for v in versions]}
        )
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _version(catalogue: Catalogue, group: str, version: str) -> Object:
    resources = []
    for kind in catalogue.all():
        if (kind.group, kind.version) != (group, version):
            continue
        response = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        found: Object = {
            "resource": kind.plural,
            "responseKind": response,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "singularResource": kind.singular_name,
            "verbs": list(kind.verbs),
        }
        if kind.short_names:
            found["shortNames"] = list(kind.short_names)
        if kind.categories:
            found["categories"] = list(kind.categories)
        if kind.subresources:
            found["subresources"] = [_aggregated_part(kind, p) for p in sorted(kind.subresources)]
        resources.append(found)
    return {"version": version, "resources": resources, "freshness": "Current"}


def _aggregated_part(kind: Kind, part: str) -> Object:
    plain = _subresource(kind, part)
    group = plain.get("group", kind.group)
    version = plain.get("version", kind.version)
    response = {"group": group, "version": version, "kind": plain["kind"]}
    return {"subresource": part, "responseKind": response, "verbs": plain["verbs"]}
