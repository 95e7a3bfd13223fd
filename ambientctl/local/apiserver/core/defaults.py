"""What the server fills in where a manifest is silent, kind by kind.

Every function changes the object it is given; callers hand in a copy of their own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any, Final

from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.status import Object

CONFIG_FILE_MODE: Final = 0o644
"""Files of ConfigMap, Secret, projected and downward API volumes (core/v1 defaults)."""
TOKEN_LIFETIME_S: Final = 3600
"""A projected token without expirationSeconds (core/v1 defaults)."""


def set_defaults(kind: Kind, obj: Object) -> None:
    """Fill in the defaults of a built-in kind; custom kinds get theirs from their schema."""
    if (fill := _BY_KIND.get((kind.group, kind.kind))) is not None:
        fill(obj)


def _setdefaults(target: Object, values: Object) -> None:
    for key, value in values.items():
        if target.get(key) is None:
            target[key] = value


def _section(obj: Object, name: str) -> Object:
    if obj.get(name) is None:
        obj[name] = {}
    section: Object = obj[name]
    return section


def _namespace(obj: Object) -> None:
    # The label makes every namespace selectable by its name (NamespaceDefaultLabelName).
    labels = _section(obj["metadata"], "labels")
    labels["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
    _setdefaults(_section(obj, "spec"), {"finalizers": ["kubernetes"]})
    _setdefaults(_section(obj, "status"), {"phase": "Active"})


def _pod(obj: Object) -> None:
    _pod_spec(_section(obj, "spec"))
    status = _section(obj, "status")
    _setdefaults(status, {"phase": "Pending", "qosClass": "BestEffort"})


def _pod_spec(spec: Object) -> None:
    _setdefaults(
        spec,
        {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "securityContext": {},
        },
    )
    # Both spellings exist; the newer one wins (core/v1 conversion).
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for container in containers(spec):
        _container(container, host_network=bool(spec.get("hostNetwork")))
    for volume in spec.get("volumes") or ():
        _volume(volume)


def containers(spec: Object) -> Iterator[Object]:
    """Init and ordinary containers of a pod spec."""
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def _container(container: Object, *, host_network: bool) -> None:
    image = str(container.get("image", ""))
    tag = image.rsplit("/", 1)[-1].partition(":")[2]
    _setdefaults(
        container,
        {
            "imagePullPolicy": "Always" if tag in {"", "latest"} else "IfNotPresent",
            "resources": {},
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
        },
    )
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if host_network:
            port.setdefault("hostPort", port.get("containerPort"))
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if (found := container.get(probe)) is not None:
            _probe(found)
    for variable in container.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")


def _probe(probe: Object) -> None:
    counts = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1}
    _setdefaults(probe, {**counts, "failureThreshold": 3})
    if (http := probe.get("httpGet")) is not None:
        _setdefaults(http, {"path": "/", "scheme": "HTTP"})


def _volume(volume: Object) -> None:
    for source in ("configMap", "secret", "projected", "downwardAPI"):
        if (found := volume.get(source)) is not None:
            found.setdefault("defaultMode", CONFIG_FILE_MODE)
    if (host_path := volume.get("hostPath")) is not None:
        host_path.setdefault("type", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        if (token := source.get("serviceAccountToken")) is not None:
            token.setdefault("expirationSeconds", TOKEN_LIFETIME_S)
        for item in (source.get("downwardAPI") or {}).get("items") or ():
            if (reference := item.get("fieldRef")) is not None:
                reference.setdefault("apiVersion", "v1")


def _template(spec: Object) -> None:
    template = _section(spec, "template")
    _section(template, "metadata")
    _pod_spec(_section(template, "spec"))


def _deployment(obj: Object) -> None:
    spec = _section(obj, "spec")
    _setdefaults(
        spec,
        {
            "replicas": 1,
            "strategy": {"type": "RollingUpdate"},
            "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
        },
    )
    strategy = spec["strategy"]
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = _section(strategy, "rollingUpdate")
        _setdefaults(rolling, {"maxSurge": "25%", "maxUnavailable": "25%"})
    _template(spec)
    _section(obj, "status")


def _replica_set(obj: Object) -> None:
    spec = _section(obj, "spec")
    _setdefaults(spec, {"replicas": 1})
    _template(spec)
    _setdefaults(_section(obj, "status"), {"replicas": 0})


def _daemon_set(obj: Object) -> None:
    spec = _section(obj, "spec")
    _setdefaults(spec, {"updateStrategy": {"type": "RollingUpdate"}, "revisionHistoryLimit": 10})
    if spec["updateStrategy"].get("type") == "RollingUpdate":
        rolling = _section(spec["updateStrategy"], "rollingUpdate")
        _setdefaults(rolling, {"maxSurge": 0, "maxUnavailable": 1})
    _template(spec)
    counts = ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled")
    _setdefaults(_section(obj, "status"), {**dict.fromkeys(counts, 0), "numberReady": 0})


def _service(obj: Object) -> None:
    spec = _section(obj, "spec")
    _setdefaults(spec, {"type": "ClusterIP", "sessionAffinity": "None"})
    for port in spec.get("ports") or ():
        _setdefaults(port, {"protocol": "TCP", "targetPort": port.get("port")})
    if spec["type"] != "ExternalName":
        _setdefaults(spec, {"internalTrafficPolicy": "Cluster"})
    if spec["type"] in {"NodePort", "LoadBalancer"}:
        _setdefaults(spec, {"externalTrafficPolicy": "Cluster"})
    if spec["type"] == "LoadBalancer":
        _setdefaults(spec, {"allocateLoadBalancerNodePorts": True})
    _setdefaults(_section(obj, "status"), {"loadBalancer": {}})


def _endpoint_slice(obj: Object) -> None:
    for port in obj.get("ports") or ():
        _setdefaults(port, {"name": "", "protocol": "TCP"})


def _secret(obj: Object) -> None:
    _setdefaults(obj, {"type": "Opaque"})
    if (plain := obj.pop("stringData", None)) is not None:
        data = _section(obj, "data")
        for key, value in plain.items():
            data[key] = base64.b64encode(str(value).encode()).decode()


def _node(obj: Object) -> None:
    _section(obj, "spec")
    _section(obj, "status")


def _event(obj: Object) -> None:
    _setdefaults(obj, {"type": "Normal", "count": 1})
    at = obj["metadata"].get("creationTimestamp")
    _setdefaults(obj, {"firstTimestamp": at, "lastTimestamp": at})


def _crd(obj: Object) -> None:
    spec: Any = _section(obj, "spec")
    names = _section(spec, "names")
    kind = str(names.get("kind", ""))
    _setdefaults(names, {"singular": kind.lower(), "listKind": f"{kind}List"})
    _setdefaults(spec, {"conversion": {"strategy": "None"}})


def _validating_webhooks(obj: Object) -> None:
    for webhook in obj.get("webhooks") or ():
        _setdefaults(
            webhook,
            {
                "failurePolicy": "Fail",
                "matchPolicy": "Equivalent",
                "namespaceSelector": {},
                "objectSelector": {},
                "timeoutSeconds": 10,
            },
        )
        for rule in webhook.get("rules") or ():
            _setdefaults(rule, {"scope": "*"})
        if (service := (webhook.get("clientConfig") or {}).get("service")) is not None:
            _setdefaults(service, {"port": 443})


_BY_KIND: Final[dict[tuple[str, str], Callable[[Object], None]]] = {
    ("", "Namespace"): _namespace,
    ("", "Pod"): _pod,
    ("", "Node"): _node,
    ("", "Service"): _service,
    ("", "Secret"): _secret,
    ("", "Event"): _event,
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replica_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("discovery.k8s.io", "EndpointSlice"): _endpoint_slice,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _crd,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _validating_webhooks,
}
