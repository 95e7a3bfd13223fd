"""Which field of which kind works in which layer: node tunnels (L4) and waypoints (L7).

Istio's kinds differ by data plane and layer; this is where the difference is written down.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Row(NamedTuple):
    """A field, and whether it acts at the node tunnel and at the waypoint."""

    field: str
    tunnel: str
    waypoint: str
    note: str = ""


class Support(NamedTuple):
    """One kind. ``acts`` says when it does anything at all."""

    group: str
    acts: str
    rows: tuple[Row, ...]


YES, NO = "yes", "-"
_L4: Final = (
    "principals", "namespaces", "serviceAccounts", "ipBlocks",
)  # fmt: skip
_L7_SOURCE: Final = ("requestPrincipals", "remoteIpBlocks")
_SEVERE: Final = "ALLOW: the rule is left out; DENY: it holds without the field, or not at all"

MATRIX: Final[dict[str, Support]] = {
    "AuthorizationPolicy": Support(
        "security.istio.io",
        "without targetRefs at node tunnels, with targetRefs at waypoints, never at both",
        (
            Row("selector", YES, NO, "a waypoint acts by targetRefs only"),
            Row("targetRefs", NO, YES, "Service, ServiceEntry, Gateway; GatewayClass in the root"),
            Row("action ALLOW, DENY", YES, YES),
            Row("action AUDIT, CUSTOM", NO, YES, "CUSTOM asks an extensionProvider"),
            *(Row(f"from.source.{one}", YES, YES, "also not…") for one in _L4),
            *(Row(f"from.source.{one}", NO, YES, _SEVERE) for one in _L7_SOURCE),
            Row("to.operation.ports", YES, YES, "ports of the pod at tunnels"),
            Row("to.operation.hosts", NO, YES, _SEVERE),
            Row("to.operation.methods", NO, YES, _SEVERE),
            Row("to.operation.paths", NO, YES, _SEVERE),
            Row("when source.ip, source.namespace, source.principal", YES, YES),
            Row("when destination.ip, destination.port", YES, YES),
            Row("when source.serviceAccount, remote.ip, connection.sni", NO, YES, _SEVERE),
            Row("when request.headers, request.auth.*", NO, YES, _SEVERE),
            Row("annotation istio.io/dry-run", YES, YES, "counted and logged, not enforced"),
        ),
    ),
    "PeerAuthentication": Support(
        "security.istio.io",
        "always, at node tunnels",
        (
            Row("mtls.mode STRICT, PERMISSIVE", YES, NO, "peers of the mesh always encrypt"),
            Row("mtls.mode DISABLE", "as PERMISSIVE", NO),
            Row("selector", YES, NO),
            Row("portLevelMtls", YES, NO, "ports of the pod; needs a selector"),
        ),
    ),
    "RequestAuthentication": Support(
        "security.istio.io",
        "with targetRefs, at waypoints",
        (
            Row("targetRefs", NO, YES),
            Row("selector", NO, NO, "node tunnels see no tokens"),
            Row("jwtRules", NO, YES),
        ),
    ),
    "VirtualService": Support(
        "networking.istio.io",
        "for hosts that use a waypoint, in the host's or the waypoint's namespace",
        (
            Row("hosts, exportTo", NO, YES),
            Row("gateways", NO, "mesh", "others belong to gateways of Istio"),
            Row("http.match", NO, YES, "uri, scheme, method, authority, headers, queryParams, …"),
            Row("http.match.sourceLabels", NO, NO, "such a match never applies"),
            Row("http.route, redirect, directResponse, delegate", NO, YES),
            Row("http.rewrite, headers, timeout, retries, fault", NO, YES),
            Row("http.mirror, mirrors, corsPolicy", NO, YES),
            Row("tcp, tls", NO, YES, "weighted backends, by port and server name"),
        ),
    ),
    "DestinationRule": Support(
        "networking.istio.io",
        "for hosts that a waypoint calls",
        (
            Row("subsets", NO, YES),
            Row("trafficPolicy.loadBalancer", NO, YES),
            Row("trafficPolicy.connectionPool, outlierDetection", NO, YES),
            Row("trafficPolicy.portLevelSettings", NO, YES),
            Row("trafficPolicy.tls SIMPLE, MUTUAL", NO, "see note",
                "what a waypoint cannot do it names: ambientctl analyze, AMB0003"),
            Row("trafficPolicy.tls DISABLE, ISTIO_MUTUAL", NO, NO, "pods of the mesh encrypt"),
            Row("trafficPolicy.tunnel, proxyProtocol", NO, "see note",
                "what a waypoint cannot do it names: ambientctl analyze, AMB0003"),
            Row("workloadSelector", NO, NO, "selects sidecars"),
        ),
    ),
    "ServiceEntry": Support(
        "networking.istio.io",
        "always",
        (
            Row("hosts, addresses, ports", YES, YES, "addresses are allocated if none"),
            Row("resolution STATIC", YES, YES),
            Row("resolution DNS", YES, YES),
            Row("resolution NONE", YES, YES, "needs addresses to tell connections apart"),
            Row("endpoints, workloadSelector", YES, YES),
            Row("wildcard hosts", NO, YES, "only a waypoint can serve them"),
            Row("exportTo", "by mesh configuration", YES),
        ),
    ),
    "WorkloadEntry": Support(
        "networking.istio.io",
        "always",
        (
            Row("address, ports, labels, serviceAccount", YES, YES),
            Row("network, locality, weight", YES, YES),
        ),
    ),
    "HTTPRoute": Support(
        "gateway.networking.k8s.io",
        "with a Service or ServiceEntry that uses a waypoint, or the waypoint, as parent",
        (
            Row("rules.matches", NO, YES),
            Row("filters header modifiers, RequestRedirect, URLRewrite", NO, YES),
            Row("filters RequestMirror, CORS, ExternalAuth", NO, YES),
            Row("filters of a backend", NO, "some", "header modifiers, URLRewrite"),
            Row("filters ExtensionRef", NO, NO, "refused"),
            Row("timeouts, retry, sessionPersistence", NO, YES),
            Row("backendRefs Service, Hostname", NO, YES, "other namespaces: ReferenceGrant"),
        ),
    ),
    "GRPCRoute": Support(
        "gateway.networking.k8s.io",
        "as HTTPRoute",
        (
            Row("rules.matches method, headers", NO, YES),
            Row("filters header modifiers, RequestMirror", NO, YES),
            Row("sessionPersistence", NO, YES),
        ),
    ),
    "TCPRoute": Support(
        "gateway.networking.k8s.io", "as HTTPRoute", (Row("backendRefs, weights", NO, YES),)
    ),
    "TLSRoute": Support(
        "gateway.networking.k8s.io",
        "as HTTPRoute",
        (Row("hostnames", NO, YES), Row("backendRefs, weights", NO, YES)),
    ),
    "BackendTLSPolicy": Support(
        "gateway.networking.k8s.io",
        "for a Service or ServiceEntry that a waypoint calls",
        (
            Row("targetRefs, sectionName", NO, YES, "the oldest policy of a target counts"),
            Row("validation.caCertificateRefs", NO, YES, "ConfigMaps with ca.crt"),
            Row("validation.wellKnownCACertificates", NO, YES, "System"),
            Row("validation.hostname, subjectAltNames", NO, YES),
            Row("options", NO, NO, "none is known"),
        ),
    ),
    "XBackendTrafficPolicy": Support(
        "gateway.networking.x-k8s.io",
        "for a Service or ServiceEntry that a waypoint calls",
        (
            Row("retryConstraint", NO, YES, "a budget over an interval, and a least rate"),
            Row("sessionPersistence", NO, YES, "a route's own comes first"),
        ),
    ),
    "Gateway": Support(
        "gateway.networking.k8s.io",
        "of class istio-waypoint: the control plane deploys a waypoint",
        (
            Row("listeners", NO, "mesh", "one: port 15008, protocol HBONE"),
            Row("listeners.allowedRoutes", NO, YES, "who may use the waypoint"),
            Row("label istio.io/waypoint-for", YES, YES, "service, workload, all, none"),
            Row("infrastructure", NO, YES, "labels, annotations, parametersRef"),
        ),
    ),
    "Telemetry": Support(
        "telemetry.istio.io",
        "at waypoints: with targetRefs, or without selector for its namespace or the mesh",
        (
            Row("accessLogging, tracing, metrics", NO, YES),
            Row("selector", NO, NO, "selects sidecars"),
        ),
    ),
    "EnvoyFilter": Support(
        "networking.istio.io",
        "with targetRefs, for the few patches that are understood",
        (
            Row("rate limiting, local and global", NO, YES),
            Row("longest body (buffer)", NO, YES),
            Row("times of requests (http_connection_manager)", NO, YES),
            Row("other patches", NO, NO, "there is no Envoy; the object's condition names them"),
        ),
    ),
    "Sidecar": Support("networking.istio.io", "never: there are no sidecars", ()),
    "WasmPlugin": Support("extensions.istio.io", "never: no WebAssembly here", ()),
    "ProxyConfig": Support("networking.istio.io", "never", ()),
    "Namespace": Support(
        "core",
        "by its labels, for all that is in it",
        (
            Row("label istio.io/dataplane-mode", YES, NO, "ambient; a pod's own label wins"),
            Row("label istio.io/use-waypoint", YES, YES, "a Gateway's name, or none"),
            Row("label istio.io/use-waypoint-namespace", YES, YES),
            Row("label istio.io/ingress-use-waypoint", NO, YES, "false: ingress gateways go past"),
            Row("label istio.io/rev", NO, NO, "which control plane reads it"),
            Row("label istio-injection", NO, NO, "a pod with a sidecar is not captured"),
            Row("annotation networking.istio.io/traffic-distribution", YES, YES),
        ),
    ),
    "Pod": Support(
        "core",
        "once it is captured (annotation ambient.istio.io/redirection: enabled)",
        (
            Row("label istio.io/dataplane-mode", YES, NO, "ambient or none"),
            Row("label istio.io/use-waypoint", YES, YES, "for calls to its own address"),
            Row("spec.hostNetwork", NO, NO, "such a pod cannot be captured"),
            Row("spec.serviceAccountName", YES, YES, "its identity"),
            Row("annotation ambient.istio.io/bypass-inbound-capture", YES, NO),
            Row("annotation ambient.istio.io/dns-capture", YES, NO),
        ),
    ),
    "Service": Support(
        "core",
        "always: its address is known to every tunnel",
        (
            Row("label istio.io/use-waypoint", YES, YES, "wins over the namespace's"),
            Row("ports.appProtocol, ports.name", NO, YES, "says what the waypoint parses"),
            Row("spec.trafficDistribution, internalTrafficPolicy", YES, YES),
            Row("label istio.io/ingress-use-waypoint", NO, YES, "false: ingress gateways go past"),
            Row("label istio.io/global", YES, YES, "one service across clusters"),
        ),
    ),
    "NetworkPolicy": Support(
        "networking.k8s.io",
        "by the network plugin, on addresses: between pods of the mesh it sees port 15008 only",
        (
            Row("ingress, egress peers", "by the plugin", "by the plugin"),
            Row("ports", "15008 only", "15008 only",
                "ambientctl authz from-network-policy gives the ports their meaning back"),
        ),
    ),
}  # fmt: skip


def find(name: str) -> tuple[str, Support] | None:
    """A kind by its name, in any case, singular, plural or kubectl's short one."""
    wanted = name.lower()
    for kind, support in MATRIX.items():
        small = kind.lower()
        if wanted in (small, f"{small}s", f"{small.removesuffix('y')}ies", _SHORT.get(small)):
            return kind, support
    return None


_SHORT: Final = {
    "authorizationpolicy": "ap", "peerauthentication": "pa", "requestauthentication": "ra",
    "virtualservice": "vs", "destinationrule": "dr", "serviceentry": "se", "workloadentry": "we",
    "gateway": "gtw", "networkpolicy": "netpol", "namespace": "ns", "pod": "po", "service": "svc",
}  # fmt: skip


def select(support: Support, path: str) -> tuple[Row, ...]:
    """The rows about a field, such as ``spec.rules.to``: those of the field itself, of what is
    below it, and of what it is a part of.
    """
    asked = [_plain(one) for one in path.split(".")]
    if asked[:1] == ["metadata"]:  # labels and annotations have points in their names
        asked = asked[2:]
    while asked:
        found = tuple(row for row in support.rows if any(_meet(asked, f) for f in _fields(row)))
        if found:
            return found
        asked = asked[1:]  # rows leave out spec and rules
    return ()


def _fields(row: Row) -> list[list[str]]:
    words = row.field.replace(",", " ").split()
    return [[_plain(part) for part in word.split(".")] for word in words]


def _plain(part: str) -> str:
    """Without case, and without the ``not`` of Istio's opposite fields."""
    negated = part.startswith("not") and part[3:4].isupper()
    return (part[3:] if negated else part).lower()


def _meet(asked: list[str], field: list[str]) -> bool:
    short, long = sorted((asked, field), key=len)
    ends = range(len(short), len(long) + 1)
    return any(long[end - len(short) : end] == short for end in ends)
