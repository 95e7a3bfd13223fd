"""What an object of a built-in kind must look like beyond its schema."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any, Final

from ambientctl.local.apiserver.core import selectors
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.names import (
    annotation_causes,
    dns1035_error,
    label_causes,
    label_error,
    path_segment_error,
    port_name_error,
    qualified_name_error,
    subdomain_error,
)
from ambientctl.local.apiserver.core.schema import misshapen
from ambientctl.local.apiserver.core.status import (
    Cause,
    Object,
    bad_value,
    invalid,
    not_supported,
    required,
    shown,
)

PORT_MAX: Final = 65535
_PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_SERVICE_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_RESTART_POLICIES: Final = ("Always", "OnFailure", "Never")
_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")
_WEBHOOK_CHOICES: Final = {
    "sideEffects": ("None", "NoneOnDryRun"),
    "failurePolicy": ("Fail", "Ignore"),
    "matchPolicy": ("Equivalent", "Exact"),
}
_LABEL_NAMED: Final = frozenset({"Namespace"})


def validate(kind: Kind, obj: Object, old: Object | None = None) -> None:
    """Raise a 422 with every cause found; ``old`` is the stored form on an update."""
    causes = [*_metadata(kind, obj)]
    if (check := _BY_KIND.get((kind.group, kind.kind))) is not None:
        causes += check(obj)
    if old is not None and (check_change := _CHANGES.get((kind.group, kind.kind))) is not None:
        causes += check_change(obj, old)
    if causes:
        raise invalid(kind.group, kind.kind, obj["metadata"].get("name", ""), causes)


def name_error(kind: Kind, name: str) -> str:
    """Why an object of this kind cannot have this name; empty when it can."""
    if kind.group == "rbac.authorization.k8s.io":
        return path_segment_error(name)
    if kind.kind in _LABEL_NAMED:
        return label_error(name)
    if (kind.group, kind.kind) == ("", "Service"):
        return dns1035_error(name)
    return subdomain_error(name)


def _metadata(kind: Kind, obj: Object) -> Iterator[Cause]:
    """Name, labels, annotations and owners: the same rules for every kind."""
    metadata = obj["metadata"]
    name = metadata.get("name")
    if not name:
        yield required("metadata.name", "name or generateName is required")
    elif why := name_error(kind, name):
        yield bad_value("metadata.name", name, why)
    yield from label_causes(metadata.get("labels") or {}, "metadata.labels")
    yield from annotation_causes(metadata.get("annotations") or {}, "metadata.annotations")
    for i, owner in enumerate(metadata.get("ownerReferences") or ()):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                yield required(f"metadata.ownerReferences[{i}].{field}", "must not be empty")


def _pod(obj: Object) -> Iterator[Cause]:
    yield from _pod_spec(obj["spec"], "spec")


def _pod_spec(spec: Object, field: str) -> Iterator[Cause]:
    """Containers and volumes of a pod or of a template."""
    if not spec.get("containers"):
        yield required(f"{field}.containers")
    if spec["restartPolicy"] not in _RESTART_POLICIES:
        yield not_supported(f"{field}.restartPolicy", spec["restartPolicy"], _RESTART_POLICIES)
    volumes: set[str] = set()
    for i, volume in enumerate(spec.get("volumes") or ()):
        yield from _unique_name(volume, volumes, f"{field}.volumes[{i}].name")
    names: set[str] = set()
    for part in ("initContainers", "containers"):
        for i, container in enumerate(spec.get(part) or ()):
            where = f"{field}.{part}[{i}]"
            yield from _unique_name(container, names, f"{where}.name")
            yield from _container(container, volumes, where)


def _unique_name(item: Object, seen: set[str], field: str) -> Iterator[Cause]:
    """A name must be there, be a label, and be the only one of its list."""
    name = item.get("name")
    if not name:
        yield required(field)
    elif name in seen:
        yield Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', field)
    elif why := label_error(name):
        yield bad_value(field, name, why)
    seen.add(name or "")


def _container(container: Object, volumes: set[str], where: str) -> Iterator[Cause]:
    """One container; ``volumes`` are the names that its mounts may use."""
    if not container.get("image"):
        yield required(f"{where}.image")
    for i, port in enumerate(container.get("ports") or ()):
        yield from _port(port.get("containerPort"), f"{where}.ports[{i}].containerPort")
        yield from _protocol(port, f"{where}.ports[{i}].protocol")
        if (name := port.get("name")) and (why := port_name_error(name)):
            yield bad_value(f"{where}.ports[{i}].name", name, why)
    for i, variable in enumerate(container.get("env") or ()):
        if not variable.get("name"):
            yield required(f"{where}.env[{i}].name")
    for i, mount in enumerate(container.get("volumeMounts") or ()):
        if not mount.get("mountPath"):
            yield required(f"{where}.volumeMounts[{i}].mountPath")
        if mount.get("name") not in volumes:
            name = str(mount.get("name", ""))
            yield Cause(
                "FieldValueNotFound", f'Not found: "{name}"', f"{where}.volumeMounts[{i}].name"
            )


def _port(value: Any, field: str) -> Iterator[Cause]:
    """A port number."""
    if value is None:
        yield required(field)
    elif not isinstance(value, int) or not 0 < value <= PORT_MAX:
        yield bad_value(field, value, f"must be between 1 and {PORT_MAX}, inclusive")


def _protocol(port: Object, field: str) -> Iterator[Cause]:
    if port["protocol"] not in _PROTOCOLS:
        yield not_supported(field, port["protocol"], _PROTOCOLS)


def _workload(obj: Object) -> Iterator[Cause]:
    """Deployment, ReplicaSet, DaemonSet: a selector that takes the template's own pods."""
    spec = obj["spec"]
    replicas = spec.get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        yield bad_value("spec.replicas", replicas, "must be greater than or equal to 0")
    template = spec["template"]
    selector = spec.get("selector")
    if not selector:
        yield required("spec.selector")
    else:
        yield from _expressions(selector, "spec.selector")
        labels = (template.get("metadata") or {}).get("labels") or {}
        parsed = selectors.from_object(selector) or ()
        if not parsed:
            yield bad_value("spec.selector", selector, "empty selector is invalid for workloads")
        elif not all(requirement.matches(labels) for requirement in parsed):
            why = "`selector` does not match template `labels`"
            yield bad_value("spec.template.metadata.labels", labels, why)
        yield from label_causes(labels, "spec.template.labels")
    yield from _pod_spec(template["spec"], "spec.template.spec")
    if template["spec"]["restartPolicy"] != "Always":
        value = template["spec"]["restartPolicy"]
        yield not_supported("spec.template.spec.restartPolicy", value, ("Always",))


def _expressions(selector: Object, field: str) -> Iterator[Cause]:
    """The matchExpressions of a label selector."""
    for i, item in enumerate(selector.get("matchExpressions") or ()):
        where = f"{field}.matchExpressions[{i}]"
        if why := qualified_name_error(item.get("key", "")):
            yield bad_value(f"{where}.key", item.get("key", ""), why)
        operator = item.get("operator", "")
        if operator not in _OPERATORS:
            yield bad_value(f"{where}.operator", operator, "not a valid selector operator")
        elif bool(item.get("values")) is not (operator in {"In", "NotIn"}):
            needed = "must be" if operator in {"In", "NotIn"} else "may not be"
            why = f"{needed} specified when `operator` is {shown(operator)}"
            yield bad_value(f"{where}.values", item.get("values") or [], why)


def _service(obj: Object) -> Iterator[Cause]:
    """Type, ports and selector; the address is checked where it is assigned."""
    spec = obj["spec"]
    if spec["type"] not in _SERVICE_TYPES:
        yield not_supported("spec.type", spec["type"], _SERVICE_TYPES)
    ports = spec.get("ports") or []
    headless = spec.get("clusterIP") == "None"
    if spec["type"] == "ExternalName":
        if not spec.get("externalName"):
            yield required("spec.externalName")
    elif not ports and not headless:
        yield required("spec.ports")
    seen: set[tuple[Any, Any]] = set()
    names: set[str] = set()
    for i, port in enumerate(ports):
        where = f"spec.ports[{i}]"
        yield from _port(port.get("port"), f"{where}.port")
        yield from _protocol(port, f"{where}.protocol")
        if len(ports) > 1 or port.get("name"):
            yield from _unique_name(port, names, f"{where}.name")
        if (key := (port.get("port"), port["protocol"])) in seen:
            value = f'{{"port":{key[0]},"protocol":"{key[1]}"}}'
            yield Cause("FieldValueDuplicate", f"Duplicate value: {value}", where)
        seen.add(key)
        target = port.get("targetPort")
        if isinstance(target, str) and (why := port_name_error(target)):
            yield bad_value(f"{where}.targetPort", target, why)
        elif isinstance(target, int):
            yield from _port(target, f"{where}.targetPort")
    yield from label_causes(spec.get("selector") or {}, "spec.selector")


def _endpoint_slice(obj: Object) -> Iterator[Cause]:
    """Addresses must be of the family that the slice names."""
    families = ("IPv4", "IPv6", "FQDN")
    if obj.get("addressType") is None:
        yield required("addressType")
        return
    if obj["addressType"] not in families:
        yield not_supported("addressType", obj["addressType"], families)
    for i, endpoint in enumerate(obj.get("endpoints") or ()):
        if not endpoint.get("addresses"):
            yield required(f"endpoints[{i}].addresses", "must contain at least 1 address")
        for j, address in enumerate(endpoint.get("addresses") or ()):
            if obj["addressType"] != "FQDN" and not _is_address(address):
                why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
                yield bad_value(f"endpoints[{i}].addresses[{j}]", address, why)


def _is_address(text: Any) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _crd(obj: Object) -> Iterator[Cause]:
    """Names, scope and versions of a definition, and schemas that can be read."""
    spec = obj["spec"]
    for field in ("group", "scope", "versions"):
        if not spec.get(field):
            yield required(f"spec.{field}")
    if spec.get("scope") not in {None, "Namespaced", "Cluster"}:
        yield not_supported("spec.scope", spec["scope"], ("Cluster", "Namespaced"))
    names = spec["names"]
    for field in ("plural", "kind"):
        if not names.get(field):
            yield required(f"spec.names.{field}")
    want = f"{names.get('plural')}.{spec.get('group')}"
    if (name := obj["metadata"].get("name")) != want:
        yield bad_value("metadata.name", name, 'must be spec.names.plural+"."+spec.group')
    versions = spec.get("versions") or []
    storing = [version for version in versions if version.get("storage")]
    if versions and len(storing) != 1:
        why = "must have exactly one version marked as storage version"
        yield bad_value("spec.versions", [v.get("name") for v in versions], why)
    for i, version in enumerate(versions):
        where = f"spec.versions[{i}].schema.openAPIV3Schema"
        if not (structural := (version.get("schema") or {}).get("openAPIV3Schema")):
            yield required(where, "schemas are required")
        else:
            yield from misshapen(structural, where)


_MAY_CHANGE: Final = frozenset({"image", "imagePullPolicy"})


def _pod_change(obj: Object, old: Object) -> Iterator[Cause]:
    """A pod keeps its spec, except for the few fields the kubelet can follow."""

    def fixed(pod: Object) -> Object:
        left = {k: v for k, v in pod["spec"].items() if k not in _SPEC_MAY_CHANGE}
        for part in ("initContainers", "containers"):
            left[part] = [
                {k: v for k, v in container.items() if k not in _MAY_CHANGE}
                for container in pod["spec"].get(part) or ()
            ]
        return left

    if fixed(obj) != fixed(old):
        message = (
            "Forbidden: pod updates may not change fields other than "
            "`spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
            "tolerations),`spec.terminationGracePeriodSeconds`"
        )
        yield Cause("FieldValueForbidden", message, "spec")


_SPEC_MAY_CHANGE: Final = frozenset(
    {"activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"}
)


def _selector_change(obj: Object, old: Object) -> Iterator[Cause]:
    """A workload keeps its selector: its pods would become orphans."""
    if obj["spec"].get("selector") != old["spec"].get("selector"):
        yield bad_value("spec.selector", obj["spec"].get("selector"), "field is immutable")


def _service_change(obj: Object, old: Object) -> Iterator[Cause]:
    """A service keeps its address; only ExternalName has none to keep."""
    before, after = old["spec"].get("clusterIP"), obj["spec"].get("clusterIP")
    if "ExternalName" not in (old["spec"]["type"], obj["spec"]["type"]) and before != after:
        yield bad_value("spec.clusterIPs[0]", [after], "may not change once set")


def _config_change(obj: Object, old: Object) -> Iterator[Cause]:
    """ConfigMaps and Secrets may be sealed."""
    data = ("data", "binaryData")
    if old.get("immutable") and any(obj.get(name) != old.get(name) for name in data):
        message = "Forbidden: field is immutable when `immutable` is set"
        yield Cause("FieldValueForbidden", message, "data")


def _validating_webhooks(obj: Object) -> Iterator[Cause]:
    names: set[str] = set()
    for i, webhook in enumerate(obj.get("webhooks") or ()):
        where, name = f"webhooks[{i}]", webhook.get("name", "")
        if name.count(".") < 2:
            detail = "should be a domain with at least three segments separated by dots"
            yield bad_value(f"{where}.name", name, detail)
        elif why := subdomain_error(name):
            yield bad_value(f"{where}.name", name, why)
        if name in names:
            yield Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', f"{where}.name")
        names.add(name)
        yield from _webhook(webhook, where)
        yield from _webhook_client(webhook.get("clientConfig") or {}, f"{where}.clientConfig")


def _webhook(webhook: Object, where: str) -> Iterator[Cause]:
    for field, allowed in _WEBHOOK_CHOICES.items():
        if webhook.get(field) not in allowed:
            yield not_supported(f"{where}.{field}", webhook.get(field), allowed)
    if "v1" not in (webhook.get("admissionReviewVersions") or ()):
        yield Cause("FieldValueInvalid", "must include v1", f"{where}.admissionReviewVersions")
    if not 1 <= webhook["timeoutSeconds"] <= 30:
        detail = "the timeout value must be between 1 and 30 seconds"
        yield bad_value(f"{where}.timeoutSeconds", webhook["timeoutSeconds"], detail)
    if webhook.get("matchConditions"):
        # Rather refused than taken for always true or always false.
        message = "Forbidden: the local API server evaluates no CEL expressions"
        yield Cause("FieldValueForbidden", message, f"{where}.matchConditions")
    for n, rule in enumerate(webhook.get("rules") or ()):
        for field in ("operations", "apiGroups", "apiVersions", "resources"):
            if not rule.get(field):
                yield required(f"{where}.rules[{n}].{field}")


def _webhook_client(client: Object, where: str) -> Iterator[Cause]:
    url, service = client.get("url"), client.get("service")
    if bool(url) == bool(service):
        yield Cause("FieldValueRequired", "exactly one of url or service is required", where)
    elif url and not url.startswith("https://"):
        yield bad_value(f"{where}.url", url, "'https' is the only allowed URL scheme")
    elif service:
        for field in ("namespace", "name"):
            if not service.get(field):
                yield required(f"{where}.service.{field}")


def _mutating_webhooks(obj: Object) -> Iterator[Cause]:
    if obj.get("webhooks"):
        # Rather refused than stored and never asked.
        message = "Forbidden: the local API server asks no mutating webhooks"
        yield Cause("FieldValueForbidden", message, "webhooks")


Check = Callable[[Object], Iterator[Cause]]
Change = Callable[[Object, Object], Iterator[Cause]]

_BY_KIND: Final[dict[tuple[str, str], Check]] = {
    ("", "Pod"): _pod,
    ("", "Service"): _service,
    ("apps", "Deployment"): _workload,
    ("apps", "ReplicaSet"): _workload,
    ("apps", "DaemonSet"): _workload,
    ("discovery.k8s.io", "EndpointSlice"): _endpoint_slice,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _crd,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): _mutating_webhooks,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _validating_webhooks,
}
_CHANGES: Final[dict[tuple[str, str], Change]] = {
    ("", "Pod"): _pod_change,
    ("", "Service"): _service_change,
    ("", "ConfigMap"): _config_change,
    ("", "Secret"): _config_change,
    ("apps", "Deployment"): _selector_change,
    ("apps", "ReplicaSet"): _selector_change,
    ("apps", "DaemonSet"): _selector_change,
}
