"""The few Kubernetes kinds that we read, as typed values.

Only the fields that decide something here; unknown ones are ignored. A malformed object raises
one ObjectError that names kind, namespace, name and field.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from ambient.api.errors import MeshError
from ambient.kube.core.resources import KubeObject

AMBIENT_MODE_LABEL: Final = "istio.io/dataplane-mode"
REDIRECTION_ANNOTATION: Final = "ambient.istio.io/redirection"
NODE_ANNOTATION: Final = "ambient.istio.io/node"
"""On a WorkloadEntry: the node on which it runs, whose tunnel may then have its identity."""
USE_WAYPOINT_LABEL: Final = "istio.io/use-waypoint"
USE_WAYPOINT_NAMESPACE_LABEL: Final = "istio.io/use-waypoint-namespace"
WAYPOINT_FOR_LABEL: Final = "istio.io/waypoint-for"
GATEWAY_NAME_LABEL: Final = "gateway.networking.k8s.io/gateway-name"
GATEWAY_CLASS_LABEL: Final = "gateway.networking.k8s.io/gateway-class-name"
MANAGED_LABEL: Final = "gateway.istio.io/managed"
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"


class ObjectError(MeshError):
    """One object cannot be understood; the others are not affected."""

    def __init__(self, kind: str, namespace: str, name: str, reason: str) -> None:
        place = f"{namespace}/{name}" if namespace else name
        super().__init__(
            f"{kind} {place}: {reason}", hint=f"correct the field and apply the {kind} again"
        )
        self.kind = kind
        self.namespace = namespace
        self.name = name
        self.reason = reason


class Camel(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """snake_case here, camelCase in JSON; unknown fields are ignored."""


class OwnerReference(Camel, frozen=True):
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Metadata(Camel, frozen=True):
    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    generate_name: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None

    def label(self, key: str) -> str | None:
        """A label's value, None where it is not set."""
        return (self.labels or {}).get(key)

    def annotation(self, key: str) -> str | None:
        """An annotation's value, None where it is not set."""
        return (self.annotations or {}).get(key)

    @property
    def age_order(self) -> tuple[str, str, str]:
        """Sorts by age, the oldest first; then by name, so that there is always one winner."""
        return self.creation_timestamp or "", self.namespace, self.name


class Condition(Camel, frozen=True):
    type: str
    status: str = "Unknown"
    reason: str | None = None
    message: str | None = None
    observed_generation: int = 0
    last_transition_time: str | None = None


class ContainerPort(Camel, frozen=True):
    container_port: int
    name: str | None = None
    protocol: str = "TCP"


class Container(Camel, frozen=True):
    name: str = ""
    ports: tuple[ContainerPort, ...] | None = None
    restart_policy: str | None = None


class PodSpec(Camel, frozen=True):
    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] | None = None


class PodIP(Camel, frozen=True):
    ip: str = ""


class PodStatus(Camel, frozen=True):
    phase: str = "Pending"
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] | None = msgspec.field(default=None, name="podIPs")
    host_ip: str = msgspec.field(default="", name="hostIP")
    conditions: tuple[Condition, ...] | None = None


class Pod(Camel, frozen=True):
    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def service_account(self) -> str:
        """The account it runs as; Kubernetes fills in ``default``."""
        return self.spec.service_account_name or "default"

    @property
    def finished(self) -> bool:
        """It ran to its end and has given its address back."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def ready(self) -> bool:
        """Its Ready condition holds and it is not being deleted."""
        return self.metadata.deletion_timestamp is None and any(
            one.type == "Ready" and one.status == "True" for one in self.status.conditions or ()
        )

    @property
    def ips(self) -> tuple[str, ...]:
        """Its addresses as text, the first one being the main one."""
        several = tuple(one.ip for one in self.status.pod_ips or () if one.ip)
        return several or ((self.status.pod_ip,) if self.status.pod_ip else ())


class NamespaceStatus(Camel, frozen=True):
    phase: str = "Active"


class Namespace(Camel, frozen=True):
    metadata: Metadata
    status: NamespaceStatus = NamespaceStatus()


class NodeAddress(Camel, frozen=True):
    type: str
    address: str


class NodeStatus(Camel, frozen=True):
    addresses: tuple[NodeAddress, ...] | None = None


class NodeSpec(Camel, frozen=True):
    pod_cidr: str = msgspec.field(default="", name="podCIDR")


class Node(Camel, frozen=True):
    metadata: Metadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class ServiceAccount(Camel, frozen=True):
    metadata: Metadata


class ServicePort(Camel, frozen=True):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    app_protocol: str | None = None


class ServiceSpec(Camel, frozen=True):
    type: str = "ClusterIP"
    selector: dict[str, str] | None = None
    ports: tuple[ServicePort, ...] | None = None
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] | None = msgspec.field(default=None, name="clusterIPs")
    ip_families: tuple[str, ...] | None = None
    internal_traffic_policy: str | None = None
    traffic_distribution: str | None = None
    publish_not_ready_addresses: bool = False


class Service(Camel, frozen=True):
    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()

    @property
    def virtual_ips(self) -> tuple[str, ...]:
        """Cluster addresses as text; headless services have none."""
        several = self.spec.cluster_ips or (self.spec.cluster_ip,)
        return tuple(ip for ip in several if ip and ip != "None")


class ObjectReference(Camel, frozen=True):
    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


class EndpointConditions(Camel, frozen=True):
    ready: bool | None = None


class Endpoint(Camel, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    target_ref: ObjectReference | None = None
    node_name: str | None = None


class EndpointPort(Camel, frozen=True):
    name: str | None = None
    port: int | None = None
    protocol: str | None = "TCP"


class EndpointSlice(Camel, frozen=True):
    metadata: Metadata
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


class LabelRequirement(Camel, frozen=True):
    key: str
    operator: str
    values: tuple[str, ...] | None = None


class LabelSelector(Camel, frozen=True):
    match_labels: dict[str, str] | None = None
    match_expressions: tuple[LabelRequirement, ...] | None = None


class PolicyTargetReference(Camel, frozen=True):
    kind: str
    name: str
    group: str = ""
    namespace: str = ""


class Source(Camel, frozen=True):
    principals: tuple[str, ...] | None = None
    not_principals: tuple[str, ...] | None = None
    request_principals: tuple[str, ...] | None = None
    not_request_principals: tuple[str, ...] | None = None
    namespaces: tuple[str, ...] | None = None
    not_namespaces: tuple[str, ...] | None = None
    ip_blocks: tuple[str, ...] | None = None
    not_ip_blocks: tuple[str, ...] | None = None
    remote_ip_blocks: tuple[str, ...] | None = None
    not_remote_ip_blocks: tuple[str, ...] | None = None
    service_accounts: tuple[str, ...] | None = None
    not_service_accounts: tuple[str, ...] | None = None


class Operation(Camel, frozen=True):
    hosts: tuple[str, ...] | None = None
    not_hosts: tuple[str, ...] | None = None
    ports: tuple[str, ...] | None = None
    not_ports: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    not_methods: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    not_paths: tuple[str, ...] | None = None


class RuleFrom(Camel, frozen=True):
    source: Source = Source()


class RuleTo(Camel, frozen=True):
    operation: Operation = Operation()


class RuleWhen(Camel, frozen=True):
    key: str
    values: tuple[str, ...] | None = None
    not_values: tuple[str, ...] | None = None


class Rule(Camel, frozen=True):
    from_: tuple[RuleFrom, ...] | None = msgspec.field(default=None, name="from")
    to: tuple[RuleTo, ...] | None = None
    when: tuple[RuleWhen, ...] | None = None


class AuthorizationPolicySpec(Camel, frozen=True):
    action: str = "ALLOW"
    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: tuple[PolicyTargetReference, ...] | None = None
    rules: tuple[Rule | None, ...] | None = None

    @property
    def targets(self) -> tuple[PolicyTargetReference, ...]:
        """Both spellings of target references."""
        single = (self.target_ref,) if self.target_ref is not None else ()
        return single + (self.target_refs or ())


class AuthorizationPolicy(Camel, frozen=True):
    metadata: Metadata
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()


class TargetedSpec(Camel, frozen=True):
    selector: LabelSelector | None = None
    workload_selector: Any = None
    target_ref: PolicyTargetReference | None = None
    target_refs: tuple[PolicyTargetReference, ...] | None = None

    @property
    def targets(self) -> tuple[PolicyTargetReference, ...]:
        """Both spellings of target references."""
        single = (self.target_ref,) if self.target_ref is not None else ()
        return single + (self.target_refs or ())


class TargetedPolicy(Camel, frozen=True):
    """Where a RequestAuthentication, Telemetry or EnvoyFilter applies; waypoints read the rest."""

    metadata: Metadata
    spec: TargetedSpec = TargetedSpec()


class MutualTls(Camel, frozen=True):
    mode: str | None = None


class PeerAuthenticationSpec(Camel, frozen=True):
    selector: LabelSelector | None = None
    mtls: MutualTls | None = None
    port_level_mtls: dict[str, MutualTls | None] | None = None


class PeerAuthentication(Camel, frozen=True):
    metadata: Metadata
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()


class RouteNamespaces(Camel, frozen=True):
    from_: str | None = msgspec.field(default=None, name="from")
    selector: LabelSelector | None = None


class RouteKind(Camel, frozen=True):
    kind: str = ""


class AllowedRoutes(Camel, frozen=True):
    namespaces: RouteNamespaces | None = None
    kinds: tuple[RouteKind, ...] | None = None


class Listener(Camel, frozen=True):
    name: str
    port: int
    protocol: str
    hostname: str = ""
    allowed_routes: AllowedRoutes | None = None


class GatewayAddressValue(Camel, frozen=True):
    value: str = ""
    type: str | None = None


class ParametersReference(Camel, frozen=True):
    group: str = ""
    kind: str = ""
    name: str = ""


class Infrastructure(Camel, frozen=True):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    parameters_ref: ParametersReference | None = None


class GatewaySpec(Camel, frozen=True):
    gateway_class_name: str
    listeners: tuple[Listener, ...] | None = None
    addresses: tuple[GatewayAddressValue, ...] | None = None
    infrastructure: Infrastructure | None = None


class ListenerStatus(Camel, frozen=True):
    name: str = ""
    attached_routes: int = 0
    conditions: tuple[Condition, ...] | None = None


class GatewayStatus(Camel, frozen=True):
    addresses: tuple[GatewayAddressValue, ...] | None = None
    conditions: tuple[Condition, ...] | None = None
    listeners: tuple[ListenerStatus, ...] | None = None


class Gateway(Camel, frozen=True):
    metadata: Metadata
    spec: GatewaySpec
    status: GatewayStatus = GatewayStatus()


class GatewayClassSpec(Camel, frozen=True):
    controller_name: str = ""


class GatewayClass(Camel, frozen=True):
    metadata: Metadata
    spec: GatewayClassSpec = GatewayClassSpec()


T = TypeVar("T")


def decode(obj: KubeObject, kind: type[T]) -> T:
    """Read an object. Raises ObjectError that names it and the field."""
    try:
        return msgspec.convert(obj, kind)
    except msgspec.ValidationError as error:
        metadata: Any = obj.get("metadata")
        if not isinstance(metadata, dict):
            metadata = {}
        name = str(metadata.get("name", "(no name)"))
        # msgspec ends with "- at `$.spec.rules[0]`"; say it as kubectl would.
        reason = str(error).replace(" - at `$.", " at `").replace(" - at `$", " at `")
        raise ObjectError(kind.__name__, str(metadata.get("namespace", "")), name, reason) from None


def selects(selector: dict[str, str] | None, labels: dict[str, str] | None) -> bool:
    """Whether every pair of the selector is a label; an empty selector selects everything."""
    if not selector:
        return True
    return bool(labels) and selector.items() <= (labels or {}).items()


def matches(selector: LabelSelector, labels: dict[str, str] | None) -> bool:
    """A selector with expressions; an unknown operator matches nothing."""
    have = labels or {}
    if not selects(selector.match_labels, have):
        return False
    for one in selector.match_expressions or ():
        values = one.values or ()
        met = {
            "In": have.get(one.key) in values,
            "NotIn": have.get(one.key) not in values,
            "Exists": one.key in have,
            "DoesNotExist": one.key not in have,
        }
        if not met.get(one.operator, False):
            return False
    return True
