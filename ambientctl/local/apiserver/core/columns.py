"""The columns of the built-in kinds, as ``kubectl get`` prints them on a real cluster."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ambientctl.local.apiserver.core.durations import age, parse_time
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.pod_columns import pod_cells
from ambientctl.local.apiserver.core.status import Object

Now = datetime.datetime
Cells = Callable[[Object, Now], list[Any]]

NONE: Final = "<none>"


class View(NamedTuple):
    """How one kind prints. ``wide`` columns show with ``-o wide`` only."""

    names: tuple[str, ...]
    wide: tuple[str, ...]
    cells: Cells
    order: tuple[str, ...] = ()
    """All columns in order, where the wide ones are not the last."""


def definitions(kind: Kind) -> list[Object]:
    """The header of a built-in kind."""
    view = _view(kind)
    if view.order:
        return [_definition(name, int(name in view.wide)) for name in view.order]
    found = [_definition(name, 0) for name in view.names]
    return found + [_definition(name, 1) for name in view.wide]


def _definition(name: str, priority: int) -> Object:
    form = "name" if name == "Name" else ""
    numbers = {"Desired", "Current", "Up-to-date", "Available", "Data", "Secrets", "Restarts"}
    return {
        "name": name,
        "type": "integer" if name in numbers - {"Restarts"} else "string",
        "format": form,
        "description": "",
        "priority": priority,
    }


def cells(kind: Kind, obj: Object, now: Now) -> list[Any]:
    """One row of a built-in kind."""
    return _view(kind).cells(obj, now)


def _view(kind: Kind) -> View:
    return _VIEWS.get(kind.kind, _PLAIN)


def _created(obj: Object, now: Now) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def _plain(obj: Object, now: Now) -> list[Any]:
    return [obj["metadata"]["name"], _created(obj, now)]


def _namespace(obj: Object, now: Now) -> list[Any]:
    return [obj["metadata"]["name"], (obj.get("status") or {}).get("phase"), _created(obj, now)]


def _node(obj: Object, now: Now) -> list[Any]:
    metadata, status = obj["metadata"], obj.get("status") or {}
    ready = _condition(status, "Ready")
    state = {"True": "Ready", "False": "NotReady"}.get(ready, "Unknown")
    if (obj.get("spec") or {}).get("unschedulable"):
        state += ",SchedulingDisabled"
    prefix = "node-role.kubernetes.io/"
    roles = sorted(
        k.removeprefix(prefix) for k in metadata.get("labels") or {} if k.startswith(prefix)
    )
    info = status.get("nodeInfo") or {}
    addresses = {a.get("type"): a.get("address") for a in status.get("addresses") or ()}
    return [
        metadata["name"],
        state,
        ",".join(roles) or NONE,
        _created(obj, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", NONE),
        addresses.get("ExternalIP", NONE),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _condition(status: Object, name: str) -> str:
    found = (c.get("status") for c in status.get("conditions") or () if c.get("type") == name)
    return str(next(found, "Unknown"))


def _service(obj: Object, now: Now) -> list[Any]:
    spec = obj["spec"]
    ports = [
        f"{p['port']}:{p['nodePort']}/{p['protocol']}"
        if p.get("nodePort")
        else f"{p['port']}/{p['protocol']}"
        for p in spec.get("ports") or ()
    ]
    return [
        obj["metadata"]["name"],
        spec["type"],
        spec.get("clusterIP") or NONE,
        _external_address(obj),
        ",".join(ports) or NONE,
        _created(obj, now),
        _pairs(spec.get("selector")),
    ]


def _external_address(obj: Object) -> str:
    spec = obj["spec"]
    external = spec.get("externalIPs") or []
    if spec["type"] == "ExternalName":
        return str(spec.get("externalName", NONE))
    if spec["type"] == "LoadBalancer":
        ingress = (obj.get("status") or {}).get("loadBalancer", {}).get("ingress") or ()
        found = [item.get("ip") or item.get("hostname", "") for item in ingress] + external
        return ",".join(found) or "<pending>"
    return ",".join(external) or NONE


def _pairs(labels: Object | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def _selector(spec: Object) -> str:
    selector = spec.get("selector") or {}
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for item in selector.get("matchExpressions") or ():
        values = ",".join(item.get("values") or ())
        words = {"In": "in", "NotIn": "notin"}
        if item["operator"] in words:
            parts.append(f"{item['key']} {words[item['operator']]} ({values})")
        else:
            parts.append(("!" if item["operator"] == "DoesNotExist" else "") + item["key"])
    return ",".join(parts) or NONE


def _images(obj: Object) -> list[str]:
    containers = obj["spec"]["template"]["spec"].get("containers") or ()
    return [
        ",".join(container["name"] for container in containers),
        ",".join(container.get("image", "") for container in containers),
    ]


def _deployment(obj: Object, now: Now) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    return [
        obj["metadata"]["name"],
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        _created(obj, now),
        *_images(obj),
        _selector(spec),
    ]


def _replica_set(obj: Object, now: Now) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    return [
        obj["metadata"]["name"],
        spec.get("replicas", 0),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        _created(obj, now),
        *_images(obj),
        _selector(spec),
    ]


def _daemon_set(obj: Object, now: Now) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    node_selector = spec["template"]["spec"].get("nodeSelector")
    return [
        obj["metadata"]["name"],
        status.get("desiredNumberScheduled", 0),
        status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        _pairs(node_selector),
        _created(obj, now),
        *_images(obj),
        _selector(spec),
    ]


def _service_account(obj: Object, now: Now) -> list[Any]:
    return [obj["metadata"]["name"], len(obj.get("secrets") or ()), _created(obj, now)]


def _config_map(obj: Object, now: Now) -> list[Any]:
    count = len(obj.get("data") or {}) + len(obj.get("binaryData") or {})
    return [obj["metadata"]["name"], count, _created(obj, now)]


def _secret(obj: Object, now: Now) -> list[Any]:
    metadata = obj["metadata"]
    return [metadata["name"], obj.get("type", ""), len(obj.get("data") or {}), _created(obj, now)]


def _event(obj: Object, now: Now) -> list[Any]:
    involved = obj.get("involvedObject") or {}
    source = obj.get("source") or {}
    first = obj.get("firstTimestamp") or obj.get("eventTime")
    last = obj.get("lastTimestamp") or first
    return [
        age(last, now),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}",
        involved.get("fieldPath", ""),
        ", ".join(
            filter(
                None, (source.get("component") or obj.get("reportingComponent"), source.get("host"))
            )
        ),
        str(obj.get("message", "")).strip(),
        age(first, now),
        str(obj.get("count", 1)),
        obj["metadata"]["name"],
    ]


def _endpoint_slice(obj: Object, now: Now) -> list[Any]:
    ports = [str(port.get("port", "*")) for port in obj.get("ports") or ()]
    addresses = [a for endpoint in obj.get("endpoints") or () for a in endpoint["addresses"]]
    return [
        obj["metadata"]["name"],
        obj.get("addressType"),
        _some(ports, "<unset>"),
        _some(addresses, "<unset>"),
        _created(obj, now),
    ]


def _some(values: list[str], otherwise: str) -> str:
    shown = ",".join(values[:3])
    return (f"{shown} + {len(values) - 3} more..." if len(values) > 3 else shown) or otherwise


def _endpoints(obj: Object, now: Now) -> list[Any]:
    found = [
        f"{address['ip']}:{port['port']}"
        for subset in obj.get("subsets") or ()
        for port in subset.get("ports") or ()
        for address in subset.get("addresses") or ()
    ]
    return [obj["metadata"]["name"], _some(found, NONE), _created(obj, now)]


def _lease(obj: Object, now: Now) -> list[Any]:
    return [
        obj["metadata"]["name"],
        (obj.get("spec") or {}).get("holderIdentity", ""),
        _created(obj, now),
    ]


def _crd(obj: Object, now: Now) -> list[Any]:
    return [obj["metadata"]["name"], _stamp(obj["metadata"].get("creationTimestamp"))]


def _role(obj: Object, now: Now) -> list[Any]:
    return [obj["metadata"]["name"], _stamp(obj["metadata"].get("creationTimestamp"))]


def _stamp(text: str | None) -> str:
    then = parse_time(text or "")
    return then.strftime("%Y-%m-%dT%H:%M:%SZ") if then else ""


def _role_binding(obj: Object, now: Now) -> list[Any]:
    reference = obj.get("roleRef") or {}
    role = f"{reference.get('kind', '')}/{reference.get('name', '')}"
    subjects: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        name = subject.get("name", "")
        if subject.get("kind") == "ServiceAccount":
            name = f"{subject.get('namespace', '')}/{name}"
        subjects.setdefault(subject.get("kind", ""), []).append(name)
    people = [", ".join(subjects[kind]) for kind in ("User", "Group", "ServiceAccount")]
    return [obj["metadata"]["name"], role, _created(obj, now), *people]


def _budget(obj: Object, now: Now) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    low, high = spec.get("minAvailable", "N/A"), spec.get("maxUnavailable", "N/A")
    allowed = status.get("disruptionsAllowed", 0)
    return [obj["metadata"]["name"], str(low), str(high), allowed, _created(obj, now)]


def _autoscaler(obj: Object, now: Now) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    target = spec.get("scaleTargetRef") or {}
    return [
        obj["metadata"]["name"],
        f"{target.get('kind')}/{target.get('name')}",
        "<unknown>",
        str(spec.get("minReplicas", 1)),
        spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0),
        _created(obj, now),
    ]


_IMAGES: Final = ("Containers", "Images", "Selector")
_PLAIN: Final = View(("Name", "Age"), (), _plain)
_VIEWS: Final[dict[str, View]] = {
    "Namespace": View(("Name", "Status", "Age"), (), _namespace),
    "Node": View(
        ("Name", "Status", "Roles", "Age", "Version"),
        ("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime"),
        _node,
    ),
    "Pod": View(
        ("Name", "Ready", "Status", "Restarts", "Age"),
        ("IP", "Node", "Nominated Node", "Readiness Gates"),
        pod_cells,
    ),
    "Service": View(
        ("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age"), ("Selector",), _service
    ),
    "Endpoints": View(("Name", "Endpoints", "Age"), (), _endpoints),
    "ServiceAccount": View(("Name", "Secrets", "Age"), (), _service_account),
    "ConfigMap": View(("Name", "Data", "Age"), (), _config_map),
    "Secret": View(("Name", "Type", "Data", "Age"), (), _secret),
    "Event": View(
        ("Last Seen", "Type", "Reason", "Object", "Message"),
        ("Subobject", "Source", "First Seen", "Count", "Name"),
        _event,
        (
            *("Last Seen", "Type", "Reason", "Object", "Subobject"),
            *("Source", "Message", "First Seen", "Count", "Name"),
        ),
    ),
    "Deployment": View(("Name", "Ready", "Up-to-date", "Available", "Age"), _IMAGES, _deployment),
    "ReplicaSet": View(("Name", "Desired", "Current", "Ready", "Age"), _IMAGES, _replica_set),
    "DaemonSet": View(
        ("Name", "Desired", "Current", "Ready", "Up-to-date", "Available", "Node Selector", "Age"),
        _IMAGES,
        _daemon_set,
    ),
    "EndpointSlice": View(
        ("Name", "AddressType", "Ports", "Endpoints", "Age"), (), _endpoint_slice
    ),
    "Lease": View(("Name", "Holder", "Age"), (), _lease),
    "CustomResourceDefinition": View(("Name", "Created At"), (), _crd),
    "Role": View(("Name", "Created At"), (), _role),
    "ClusterRole": View(("Name", "Created At"), (), _role),
    "RoleBinding": View(
        ("Name", "Role", "Age"), ("Users", "Groups", "ServiceAccounts"), _role_binding
    ),
    "ClusterRoleBinding": View(
        ("Name", "Role", "Age"), ("Users", "Groups", "ServiceAccounts"), _role_binding
    ),
    "PodDisruptionBudget": View(
        ("Name", "Min Available", "Max Unavailable", "Allowed Disruptions", "Age"), (), _budget
    ),
    "HorizontalPodAutoscaler": View(
        ("Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"), (), _autoscaler
    ),
}
