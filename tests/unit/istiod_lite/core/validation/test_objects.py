"""What the webhook says of objects: a table of mistakes, each named by its field."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from istiod_lite.core.validation.objects import KINDS, check

VERSIONS = {
    "security.istio.io": "v1",
    "networking.istio.io": "v1",
    "gateway.networking.k8s.io": "v1",
    "gateway.networking.x-k8s.io": "v1alpha1",
    "telemetry.istio.io": "v1",
}
GROUPS = {kind: group for group, kind in KINDS}


def obj(kind, text, **metadata):
    group = GROUPS[kind]
    return {
        "apiVersion": f"{group}/{VERSIONS[group]}",
        "kind": kind,
        "metadata": {"name": "x", "namespace": "shop", **metadata},
        "spec": yaml.safe_load(text),
    }


GOOD = [
    ("AuthorizationPolicy", "{}"),
    ("AuthorizationPolicy", "{action: ALLOW, rules: [{}]}"),
    (
        "AuthorizationPolicy",
        "{selector: {matchLabels: {app: web}}, rules: [{from: [{source: {principals: "
        "[cluster.local/ns/a/sa/b]}}], to: [{operation: {ports: ['80'], paths: [/a*]}}], "
        "when: [{key: 'request.headers[x]', values: [y]}]}]}",
    ),
    ("AuthorizationPolicy", "{targetRefs: [{kind: Service, group: '', name: web}], rules: [{}]}"),
    ("AuthorizationPolicy", "{action: CUSTOM, provider: {name: p}, rules: [{}]}"),
    ("PeerAuthentication", "{mtls: {mode: STRICT}}"),
    (
        "PeerAuthentication",
        "{selector: {matchLabels: {app: a}}, portLevelMtls: {'8080': {mode: PERMISSIVE}}}",
    ),
    ("RequestAuthentication", "{jwtRules: [{issuer: me, jwksUri: https://me/keys}]}"),
    (
        "VirtualService",
        "{hosts: [reviews], http: [{match: [{uri: {prefix: /a}}], timeout: 5s, route: "
        "[{destination: {host: reviews, subset: v1}, weight: 90}, "
        "{destination: {host: reviews, subset: v2}, weight: 10}]}]}",
    ),
    (
        "DestinationRule",
        "{host: reviews, trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}, "
        "subsets: [{name: v1, labels: {version: v1}}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [api.example.com], resolution: DNS, location: MESH_EXTERNAL, "
        "ports: [{number: 443, name: https, protocol: TLS}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], addresses: [10.0.0.0/24], resolution: STATIC, ports: [{number: 80, "
        "name: http}], endpoints: [{address: 10.0.0.1, ports: {http: 8080}}]}",
    ),
    ("WorkloadEntry", "{address: 10.0.0.1, labels: {app: a}, ports: {http: 80}}"),
    ("WorkloadEntry", "{network: remote}"),
    ("WorkloadGroup", "{template: {serviceAccount: a}}"),
    (
        "Gateway",
        "{gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: "
        "HBONE}]}",
    ),
    ("Gateway", "{gatewayClassName: other, listeners: []}"),
    (
        "HTTPRoute",
        "{parentRefs: [{kind: Service, group: '', name: web, port: 80}], rules: [{matches: "
        "[{path: {type: PathPrefix, value: /a}}], backendRefs: [{name: web, port: 80}]}]}",
    ),
    (
        "GRPCRoute",
        "{parentRefs: [{kind: Service, group: '', name: web}], rules: [{matches: [{method: "
        "{service: a.B}}], backendRefs: [{name: web, port: 80}]}]}",
    ),
    (
        "HTTPRoute",
        "{rules: [{filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: "
        "{name: a, port: 80}, http: {path: /check}, forwardBody: {maxSize: 10}}}]}]}",
    ),
    ("TCPRoute", "{rules: [{backendRefs: [{name: db, port: 3306}]}]}"),
    ("ReferenceGrant", "{from: [{kind: HTTPRoute, namespace: a}], to: [{kind: Service}]}"),
    (
        "BackendTLSPolicy",
        "{targetRefs: [{group: '', kind: Service, name: web, sectionName: https}], validation: "
        "{hostname: web.shop, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}], "
        "subjectAltNames: [{type: URI, uri: 'spiffe://a/b'}, {type: Hostname, hostname: a.b}]}}",
    ),
    (
        "BackendTLSPolicy",
        "{targetRefs: [{group: x.y, kind: Pool, name: p}], validation: {hostname: a.b, "
        "wellKnownCACertificates: z.y/certs}}",
    ),
    (
        "XBackendTrafficPolicy",
        "{targetRefs: [{group: '', kind: Service, name: web}], retryConstraint: {budget: "
        "{percent: 20, interval: 10s}, minRetryRate: {count: 10, interval: 1s}}, "
        "sessionPersistence: {type: Header, sessionName: x}}",
    ),
]


@pytest.mark.parametrize(("kind", "text"), GOOD)
def test_what_is_right_is_admitted(kind, text):
    report = check(obj(kind, text))
    assert report.problems == []
    assert report.warnings == []


@pytest.mark.parametrize(
    ("kind", "text", "field", "said"),
    [
        # AuthorizationPolicy
        ("AuthorizationPolicy", "{action: ALLOWED}", "spec.action", "DENY"),
        ("AuthorizationPolicy", "{acton: DENY}", "spec.acton", "no such field"),
        ("AuthorizationPolicy", "{action: DENY}", "spec.rules", "nothing is ever denied"),
        ("AuthorizationPolicy", "{action: CUSTOM, rules: [{}]}", "spec.provider.name", "provider"),
        ("AuthorizationPolicy", "{action: CUSTOM, provider: {name: p}}", "spec.rules", "missing"),
        ("AuthorizationPolicy", "{provider: {name: p}}", "spec.provider", "action CUSTOM"),
        ("AuthorizationPolicy", "{rules: [{from: []}]}", "spec.rules[0].from", "never matches"),
        ("AuthorizationPolicy", "{rules: [{from: [{}]}]}", "spec.rules[0].from[0].source", "empty"),
        ("AuthorizationPolicy", "{rules: [{to: [{}]}]}", "spec.rules[0].to[0].operation", "empty"),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {ipBlocks: [10.0.0.256]}}]}]}",
            "spec.rules[0].from[0].source.ipBlocks[0]",
            "no IP address",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {principals: []}}]}]}",
            "spec.rules[0].from[0].source.principals",
            "empty",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {principals: ['spiffe://a/ns/b/sa/c']}}]}]}",
            "spec.rules[0].from[0].source.principals[0]",
            "without spiffe://",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{source: {serviceAccounts: [a/b], namespaces: [a]}}]}]}",
            "spec.rules[0].from[0].source",
            "cannot be combined",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{operation: {ports: ['http']}}]}]}",
            "spec.rules[0].to[0].operation.ports[0]",
            "no port",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{operation: {paths: [admin]}}]}]}",
            "spec.rules[0].to[0].operation.paths[0]",
            "begin with /",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{when: [{key: source.pod, values: [a]}]}]}",
            "spec.rules[0].when[0].key",
            "source.ip",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{when: [{key: source.ip}]}]}",
            "spec.rules[0].when[0]",
            "neither values",
        ),
        (
            "AuthorizationPolicy",
            "{selector: {matchLabels: {a: b}}, targetRef: {kind: Gateway, "
            "group: gateway.networking.k8s.io, name: w}}",
            "spec",
            "only one can hold",
        ),
        (
            "AuthorizationPolicy",
            "{targetRefs: [{kind: Pod, name: a}]}",
            "spec.targetRefs[0].kind",
            "ServiceEntry",
        ),
        (
            "AuthorizationPolicy",
            "{targetRefs: [{kind: Gateway, group: '', name: a}]}",
            "spec.targetRefs[0].group",
            "gateway.networking.k8s.io",
        ),
        (
            "AuthorizationPolicy",
            "{targetRefs: [{kind: Service, name: a, namespace: b}]}",
            "spec.targetRefs[0].namespace",
            "own namespace",
        ),
        ("AuthorizationPolicy", "{rules: 7}", "spec.rules", "not a list"),
        ("AuthorizationPolicy", "[]", "spec", "not a mapping"),
        # PeerAuthentication
        ("PeerAuthentication", "{mtls: {mode: ON}}", "spec.mtls.mode", "not text"),
        ("PeerAuthentication", "{mtls: {mode: strict}}", "spec.mtls.mode", "STRICT"),
        ("PeerAuthentication", "{portLevelMtls: {'80': {}}}", "spec.portLevelMtls", "selector"),
        (
            "PeerAuthentication",
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {'70000': {mode: STRICT}}}",
            "spec.portLevelMtls[70000]",
            "no port",
        ),
        # RequestAuthentication
        ("RequestAuthentication", "{jwtRules: [{}]}", "spec.jwtRules[0].issuer", "missing"),
        (
            "RequestAuthentication",
            "{jwtRules: [{issuer: a, jwks: x, jwksUri: https://y}]}",
            "spec.jwtRules[0]",
            "keep one",
        ),
        (
            "RequestAuthentication",
            "{jwtRules: [{issuer: a, jwksUri: example.com}]}",
            "spec.jwtRules[0].jwksUri",
            "no URL",
        ),
        # VirtualService
        (
            "VirtualService",
            "{tcp: [{route: [{destination: {host: a}}]}]}",
            "spec.hosts",
            "delegate",
        ),
        (
            "VirtualService",
            "{hosts: [a], http: [{redirect: {uri: /}, retries: {retryOn: often}}]}",
            "spec.http[0].retries.retryOn",
            "no condition",
        ),
        (
            "VirtualService",
            "{hosts: [a], http: [{redirect: {uri: /}, mirrors: [{percentage: {value: 1}}]}]}",
            "spec.http[0].mirrors[0].destination.host",
            "copy",
        ),
        (
            "VirtualService",
            "{hosts: [a], http: [{redirect: {uri: /}, fault: {abort: {grpcStatus: BAD}}}]}",
            "spec.http[0].fault.abort.grpcStatus",
            "UNAVAILABLE",
        ),
        (
            "VirtualService",
            "{hosts: [a], http: [{redirect: {uri: /}, "
            "rewrite: {uri: /, uriRegexRewrite: {match: a}}}]}",
            "spec.http[0].rewrite",
            "keep one",
        ),
        (
            "VirtualService",
            "{hosts: [a], http: [{match: [{uri: {regex: '(?=a)'}}], redirect: {uri: /}}]}",
            "spec.http[0].match[0].uri.regex",
            "RE2",
        ),
        (
            "DestinationRule",
            "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {maglev: {}}}}}",
            "spec.trafficPolicy.loadBalancer.consistentHash",
            "exactly one",
        ),
        (
            "DestinationRule",
            "{host: a, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: MAYBE}}}}",
            "spec.trafficPolicy.connectionPool.http.h2UpgradePolicy",
            "UPGRADE",
        ),
        ("VirtualService", "{hosts: [a]}", "spec", "no routes"),
        ("VirtualService", "{hosts: ['a b'], tcp: [{}]}", "spec.hosts[0]", "no host name"),
        ("VirtualService", "{hosts: [a], http: [{}]}", "spec.http[0]", "exactly one"),
        (
            "VirtualService",
            "{hosts: [a], http: [{route: [{destination: {host: a}}], timeout: fast}]}",
            "spec.http[0].timeout",
            "no duration",
        ),
        (
            "VirtualService",
            "{hosts: [a], http: [{match: [{uri: {regex: '('}}], redirect: {uri: /}}]}",
            "spec.http[0].match[0].uri.regex",
            "no regular expression",
        ),
        (
            "VirtualService",
            "{hosts: [a], http: [{match: [{uri: {exact: /, prefix: /}}], redirect: {uri: /}}]}",
            "spec.http[0].match[0].uri",
            "exactly one",
        ),
        (
            "VirtualService",
            "{hosts: [a], http: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]}",
            "spec.http[0].route",
            "weight",
        ),
        (
            "VirtualService",
            "{hosts: [a], http: [{route: [{destination: {}}]}]}",
            "spec.http[0].route[0].destination.host",
            "missing",
        ),
        # DestinationRule
        ("DestinationRule", "{}", "spec.host", "missing"),
        (
            "DestinationRule",
            "{host: a, subsets: [{name: v1}, {name: v1}]}",
            "spec.subsets[1].name",
            "twice",
        ),
        (
            "DestinationRule",
            "{host: a, trafficPolicy: {tls: {mode: MTLS}}}",
            "spec.trafficPolicy.tls.mode",
            "ISTIO_MUTUAL",
        ),
        (
            "DestinationRule",
            "{host: a, trafficPolicy: {proxyProtocol: {version: V3}}}",
            "spec.trafficPolicy.proxyProtocol.version",
            "V1",
        ),
        (
            "DestinationRule",
            "{host: a, trafficPolicy: {tunnel: {targetPort: 443}}}",
            "spec.trafficPolicy.tunnel.targetHost",
            "whither",
        ),
        # ServiceEntry and what stands for machines
        ("ServiceEntry", "{ports: [{number: 80, name: a}]}", "spec.hosts", "missing"),
        (
            "ServiceEntry",
            "{hosts: ['*'], ports: [{number: 80, name: a}]}",
            "spec.hosts[0]",
            "all traffic",
        ),
        ("ServiceEntry", "{hosts: [a.b]}", "spec.ports", "missing"),
        (
            "ServiceEntry",
            "{hosts: [a.b], ports: [{number: 80, name: a}, {number: 80, name: b}]}",
            "spec.ports[1].number",
            "twice",
        ),
        (
            "ServiceEntry",
            "{hosts: [a.b], ports: [{number: 80, name: a}], endpoints: [{address: 10.0.0.1}]}",
            "spec.endpoints",
            "NONE ignores",
        ),
        (
            "ServiceEntry",
            "{hosts: [a.b], addresses: [a], ports: [{number: 80, name: a}]}",
            "spec.addresses[0]",
            "no IP address",
        ),
        (
            "ServiceEntry",
            "{hosts: ['*.a.b'], resolution: DNS, ports: [{number: 80, name: a}]}",
            "spec.hosts",
            "looked up",
        ),
        ("WorkloadEntry", "{labels: {a: b}}", "spec.address", "missing"),
        ("WorkloadEntry", "{address: 10.0.0.1, ports: {http: 0}}", "spec.ports[http]", "no port"),
        ("WorkloadGroup", "{}", "spec.template", "missing"),
        # Gateway API
        ("Gateway", "{gatewayClassName: istio-waypoint}", "spec.listeners", "one: mesh"),
        (
            "Gateway",
            "{gatewayClassName: istio-waypoint, listeners: [{port: 80, protocol: HTTP}]}",
            "spec.listeners[0]",
            "15008",
        ),
        (
            "HTTPRoute",
            "{parentRefs: [{kind: Service, name: web}]}",
            "spec.parentRefs[0].group",
            "group",
        ),
        (
            "HTTPRoute",
            "{rules: [{matches: [{path: {type: RegularExpression, value: '['}}]}]}",
            "spec.rules[0].matches[0].path.value",
            "no regular expression",
        ),
        (
            "HTTPRoute",
            "{rules: [{filters: [{type: RequestMirror, "
            "requestMirror: {backendRef: {port: 80}}}]}]}",
            "spec.rules[0].filters[0].requestMirror.backendRef.name",
            "copy",
        ),
        (
            "HTTPRoute",
            "{rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a}, "
            "percent: 101}}]}]}",
            "spec.rules[0].filters[0].requestMirror.percent",
            "100",
        ),
        (
            "HTTPRoute",
            "{rules: [{retry: {codes: [99]}}]}",
            "spec.rules[0].retry.codes[0]",
            "400",
        ),
        (
            "GRPCRoute",
            "{rules: [{sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}}]}",
            "spec.rules[0].sessionPersistence.absoluteTimeout",
            "permanent",
        ),
        (
            "HTTPRoute",
            "{rules: [{backendRefs: [{name: a}]}]}",
            "spec.rules[0].backendRefs[0].port",
            "missing",
        ),
        (
            "HTTPRoute",
            "{rules: [{filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, grpc: "
            "{allowedHeaders: [a]}}}]}]}",
            "spec.rules[0].filters[0].externalAuth.grpc",
            "for protocol GRPC",
        ),
        (
            "HTTPRoute",
            "{rules: [{filters: [{type: ExternalAuth, externalAuth: {backendRef: {name: a}}}]}]}",
            "spec.rules[0].filters[0].externalAuth.backendRef.port",
            "missing",
        ),
        ("TCPRoute", "{}", "spec.rules", "missing"),
        ("GRPCRoute", "{rules: [{matches: [{method: {}}]}]}", "spec.rules[0].matches[0].method",
         "neither"),
        ("ReferenceGrant", "{from: [{kind: A, namespace: b}]}", "spec.to", "missing"),
        ("BackendTLSPolicy", "{validation: {hostname: a}}", "spec.targetRefs", "missing"),
        ("BackendTLSPolicy", "{validation: {hostname: a}}", "spec.validation", "nobody"),
        ("BackendTLSPolicy", "{}", "spec.validation.hostname", "SNI"),
        (
            "BackendTLSPolicy",
            "{validation: {caCertificateRefs: [{}], wellKnownCACertificates: System}}",
            "spec.validation",
            "keep one",
        ),
        (
            "BackendTLSPolicy",
            "{validation: {subjectAltNames: [{type: URI, hostname: a}]}}",
            "spec.validation.subjectAltNames[0].uri",
            "URI",
        ),
        (
            "BackendTLSPolicy",
            "{targetRefs: [{group: apps, kind: Service, name: a}]}",
            "spec.targetRefs[0].group",
            "no Service",
        ),
        (
            "XBackendTrafficPolicy",
            "{retryConstraint: {budget: {percent: 101}}}",
            "spec.retryConstraint.budget.percent",
            "100",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named_by_field_with_a_remedy(kind, text, field, said):
    found = [one for one in check(obj(kind, text)).problems if one.field == field]
    assert found, check(obj(kind, text)).problems
    assert any(said in str(one) for one in found)


def test_names_labels_and_top_level_fields():
    waypoint = "{gatewayClassName: istio-waypoint, listeners: [{port: 15008, protocol: HBONE}]}"
    assert check(obj("Gateway", waypoint, name="none")).problems
    (problem,) = check(obj("Gateway", waypoint, labels={"istio.io/waypoint-for": "pods"})).problems
    assert problem.field == "metadata.labels.istio.io/waypoint-for"
    odd = {**obj("PeerAuthentication", "{}"), "mtls": {"mode": "STRICT"}}
    (problem,) = check(odd).problems
    assert (problem.field, "spec" in problem.remedy) == ("mtls", True)


def test_the_test_annotation_always_refuses():
    always = {"internal.istio.io/webhook-always-reject": "true"}
    assert check(obj("PeerAuthentication", "{}", annotations=always)).problems


def test_what_is_shadowed_or_has_nowhere_to_go_is_a_warning():
    text = "{hosts: [a], http: [{redirect: {uri: /}}, {redirect: {uri: /b}}]}"
    (warning,) = check(obj("VirtualService", text)).warnings
    assert "never reached" in str(warning)
    text = "{hosts: [a.b], resolution: STATIC, ports: [{number: 80, name: a}]}"
    assert check(obj("ServiceEntry", text)).warnings


def test_kinds_of_others_are_not_judged():
    assert check({"apiVersion": "v1", "kind": "Pod", "spec": 7}).problems == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["action", "rules", "from", "source", "hosts", "http", "route", "ports", "endpoints",
             "match", "uri", "regex", "selector", "matchLabels", "listeners", "spec", "template"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(GROUPS)), spec=JSON, labels=JSON)
def test_no_object_makes_it_fail(kind, spec, labels):
    made = {**obj(kind, "{}"), "spec": spec, "metadata": {"labels": labels}}
    for problem in check(made).problems:
        assert problem.field
        assert len(str(problem)) < 800


def test_the_samples_are_right():
    for path in Path("manifests").rglob("*.yaml"):
        if "templates" in path.parts:
            continue  # Helm's: text until it is rendered
        for document in yaml.safe_load_all(path.read_text()):
            if "kind" not in (document or {}):
                continue  # a program's configuration, no object
            assert check(document).problems == [], path
