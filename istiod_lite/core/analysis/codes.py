"""The catalogue of codes. IST numbers and names are Istio's, AMB is ours
(istio pkg/config/analysis/msg)."""

from __future__ import annotations

from typing import Final

from istiod_lite.core.analysis.finding import Code, Severity

_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

DEPRECATED: Final = Code("IST0002", "Deprecated", _W, "a field or version that has a successor")
NOT_FOUND: Final = Code(
    "IST0101", "ReferencedResourceNotFound", _E, "a host, subset, port or object that is not there"
)
SCHEMA_ERROR: Final = Code(
    "IST0106", "SchemaValidationError", _E, "what the admission webhook refuses"
)
MISPLACED_ANNOTATION: Final = Code(
    "IST0107", "MisplacedAnnotation", _W, "an annotation on a kind where nobody reads it"
)
UNKNOWN_ANNOTATION: Final = Code(
    "IST0108", "UnknownAnnotation", _W, "an annotation of the mesh that does not exist"
)
CONFLICTING_HOSTS: Final = Code(
    "IST0109",
    "ConflictingMeshGatewayVirtualServiceHosts",
    _E,
    "two VirtualServices for the same host: only one of them counts",
)
PORT_NEEDED: Final = Code(
    "IST0112",
    "VirtualServiceDestinationPortSelectorRequired",
    _E,
    "a route to a service with several ports that names none",
)
SERVICES_DISAGREE: Final = Code(
    "IST0116",
    "DeploymentAssociatedToMultipleServices",
    _W,
    "services of the same pods declare different protocols for a port",
)
PORT_NAME: Final = Code(
    "IST0118",
    "PortNameIsNotUnderNamingConvention",
    _I,
    "a port whose protocol its waypoint has to guess",
)
INVALID_ANNOTATION: Final = Code(
    "IST0125", "InvalidAnnotation", _W, "an annotation with a value that means nothing"
)
SELECTS_NOTHING: Final = Code(
    "IST0127", "NoMatchingWorkloadsFound", _W, "a selector that selects no workload"
)
NO_VERIFICATION: Final = Code(
    "IST0128",
    "NoServerCertificateVerificationDestinationLevel",
    _W,
    "TLS to a server whose certificate nobody checks",
)
NO_VERIFICATION_PORT: Final = Code(
    "IST0129",
    "NoServerCertificateVerificationPortLevel",
    _W,
    "the same for one port",
)
UNREACHABLE_RULE: Final = Code(
    "IST0130", "VirtualServiceUnreachableRule", _W, "a route behind one that takes everything"
)
INEFFECTIVE_MATCH: Final = Code(
    "IST0131", "VirtualServiceIneffectiveMatch", _I, "a match that an earlier route has already"
)
SCHEMA_WARNING: Final = Code(
    "IST0133", "SchemaWarning", _W, "what the admission webhook warns about"
)
ADDRESSES_REQUIRED: Final = Code(
    "IST0134",
    "ServiceEntryAddressesRequired",
    _W,
    "a ServiceEntry whose connections cannot be told from others",
)
DEPRECATED_ANNOTATION: Final = Code(
    "IST0135", "DeprecatedAnnotation", _I, "an annotation that has a successor"
)
CONFLICTING_PORTS: Final = Code(
    "IST0137",
    "DeploymentConflictingPorts",
    _W,
    "services of the same pods reach one target port by different ports",
)
INVALID_WEBHOOK: Final = Code(
    "IST0139", "InvalidWebhook", _E, "a webhook whose service or certificate is missing"
)
EXTERNAL_NAME_PORT: Final = Code(
    "IST0150",
    "ExternalNameServiceTypeInvalidPortName",
    _W,
    "an ExternalName Service with a port that takes everybody's traffic",
)
OLD_GATEWAY_API: Final = Code(
    "IST0156", "UnsupportedGatewayAPIVersion", _E, "Gateway API without the version that we read"
)
INEFFECTIVE_SELECTOR: Final = Code(
    "IST0166", "IneffectiveSelector", _W, "a selector where a waypoint needs targetRefs"
)
INEFFECTIVE_POLICY: Final = Code(
    "IST0167", "IneffectivePolicy", _W, "a policy that nobody enforces"
)
NEGATIVE_CONDITION: Final = Code(
    "IST0171", "NegativeConditionStatus", _W, "a status condition that says no"
)
SUBSET_SELECTS_NOTHING: Final = Code(
    "IST0173", "DestinationRuleSubsetNotSelectPods", _E, "a subset to which no pod belongs"
)
UNKNOWN_RULE_HOST: Final = Code(
    "IST0174", "UnknownDestinationRuleHost", _W, "a DestinationRule for a host that is not there"
)
ENTRY_PROTOCOLS: Final = Code(
    "IST0177",
    "ConflictingServiceEntryProtocol",
    _W,
    "ServiceEntries give one host's port different protocols",
)

NO_GATEWAY_API: Final = Code(
    "AMB0001", "DefinitionMissing", _E, "a CustomResourceDefinition that the mesh needs"
)
KIND_IGNORED: Final = Code(
    "AMB0002", "KindIgnored", _W, "an object of a kind that ambient meshes do not read"
)
FIELD_IGNORED: Final = Code(
    "AMB0003", "FieldIgnored", _W, "a field that no layer of the mesh acts on"
)
POLICY_STRICTER: Final = Code(
    "AMB0101", "PolicyStricterThanWritten", _W, "node tunnels enforce a policy without its L7 part"
)
POLICY_OUTSIDE_MESH: Final = Code(
    "AMB0102", "PolicyOutsideMesh", _W, "a policy for workloads that the mesh does not capture"
)
POLICIES_CONFLICT: Final = Code(
    "AMB0103", "PolicyConflict", _W, "what one policy allows another one denies"
)
UNKNOWN_PRINCIPAL: Final = Code(
    "AMB0104", "UnknownPrincipal", _W, "a policy names an identity that nobody has"
)
PEERS_CONFLICT: Final = Code(
    "AMB0105", "PeerAuthenticationConflict", _W, "two PeerAuthentications for the same workloads"
)
MODE_DISABLE: Final = Code(
    "AMB0106", "DisableIgnored", _W, "mTLS mode DISABLE, which lets plain text in and no more"
)
PORT_IS_SERVICE_PORT: Final = Code(
    "AMB0107", "ServicePortInPolicy", _W, "a policy names a service's port instead of the pod's"
)
SCRAPE_REFUSED: Final = Code(
    "AMB0108", "ScrapeRefused", _W, "STRICT keeps a scraper outside the mesh away from its port"
)
DRY_RUN: Final = Code("AMB0109", "DryRun", _I, "a policy that is reported and not enforced")
WAYPOINT_MISSING: Final = Code(
    "AMB0201", "WaypointMissing", _E, "a label names a waypoint that is not there"
)
WAYPOINT_FORBIDDEN: Final = Code(
    "AMB0202", "WaypointForbidden", _E, "a waypoint of another namespace that does not permit it"
)
WAYPOINT_TRAFFIC: Final = Code(
    "AMB0203", "WaypointTrafficType", _W, "a waypoint that is for another kind of traffic"
)
WAYPOINT_UNUSED: Final = Code("AMB0204", "WaypointUnused", _W, "a waypoint that nobody uses")
WAYPOINT_OUTSIDE_MESH: Final = Code(
    "AMB0205", "WaypointOutsideMesh", _W, "a waypoint label where the mesh captures nothing"
)
WAYPOINT_NEEDED: Final = Code(
    "AMB0206", "WaypointNeeded", _W, "an L7 object for which there is no waypoint"
)
WAYPOINT_LABEL: Final = Code(
    "AMB0207", "WaypointLabel", _W, "a waypoint label that says nothing, or too little"
)
SIDECAR_AND_AMBIENT: Final = Code(
    "AMB0301", "SidecarAndAmbient", _E, "sidecar injection and ambient mode at once"
)
MODE_LABEL: Final = Code(
    "AMB0302", "DataplaneModeLabel", _W, "an enrolment label that is misspelt or misplaced"
)
NOT_ELIGIBLE: Final = Code(
    "AMB0303", "NotEligible", _I, "a pod with the mesh's label that cannot be captured"
)
NOT_CAPTURED: Final = Code(
    "AMB0304", "NotCaptured", _W, "a pod with the mesh's label that is not in the mesh"
)
BLOCKS_HBONE: Final = Code(
    "AMB0401", "NetworkPolicyBlocksHBONE", _E, "a NetworkPolicy that keeps port 15008 closed"
)
PORTS_HOLLOW: Final = Code(
    "AMB0402", "NetworkPolicyPortsHollow", _W, "ports of a NetworkPolicy that no longer limit"
)
BLOCKS_PROBES: Final = Code(
    "AMB0403", "NetworkPolicyBlocksProbes", _W, "health probes that a NetworkPolicy may refuse"
)
HTTP_HIDDEN: Final = Code(
    "AMB0501", "ProtocolHidesHTTP", _W, "an L7 rule for a port that is declared as something else"
)
TARGET_PORT: Final = Code(
    "AMB0502", "TargetPortUnknown", _W, "a named target port that no container has"
)
HOST_SHADOWED: Final = Code(
    "AMB0503", "HostShadowed", _W, "a ServiceEntry's host for which another object speaks"
)
TLS_POLICY_IGNORED: Final = Code(
    "AMB0504", "TrafficPolicyTLSIgnored", _I, "client TLS settings towards a host of the mesh"
)
GRANT_MISSING: Final = Code(
    "AMB0505", "ReferenceNotPermitted", _E, "a reference into another namespace without a grant"
)
ROUTES_MIXED: Final = Code(
    "AMB0506", "RoutesMixed", _W, "VirtualService and Gateway API routes for the same host"
)
ROUTES_CONFLICT: Final = Code(
    "AMB0507", "RoutesConflict", _W, "two routes with the same match: only the older one counts"
)
LISTENERS_CONFLICT: Final = Code(
    "AMB0508", "ListenersConflict", _E, "two listeners of a Gateway for the same port and host"
)
CERTIFICATE: Final = Code(
    "AMB0601", "CertificateExpiry", _E, "a certificate that has expired or is about to"
)
CERTIFICATE_UNREADABLE: Final = Code(
    "AMB0602", "CertificateUnreadable", _E, "a Secret without a usable certificate and key"
)
ROOTS_DIFFER: Final = Code(
    "AMB0603", "RootsDiffer", _E, "a namespace that trusts another root than the authority's"
)

ALL: Final = {code.id: code for code in list(globals().values()) if isinstance(code, Code)}
