"""Every code that the analyzers know: a mistake that brings it; and what brings none."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from cryptography.x509 import load_pem_x509_certificate

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.analyze import ANALYZERS, Suppression, analyze
from istiod_lite.core.analysis.finding import Severity
from tests.fakes.certs import TestCa
from tests.unit.istiod_lite.core.analysis.reading import (
    BOUND,
    SHOP,
    WAYPOINT,
    corpus,
    findings,
    found,
)

VIRTUAL_SERVICE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews}}]}]
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
"""
L4_POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  rules: [{from: [{source: {principals: [cluster.local/ns/web/sa/default]}}]}]
"""
BACKEND_TLS = """
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: reviews, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: reviews}]
  validation:
    hostname: reviews.example.com
    caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]
"""
NO_CA = """
apiVersion: v1
kind: ConfigMap
metadata: {name: ca, namespace: shop}
data: {other: text}
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews, port: 9080}]
  rules: [{backendRefs: [{name: reviews, port: 9080}]}]
"""
PEERS = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: own, namespace: shop, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {mtls: {mode: STRICT}}
"""
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec:
  hosts: [api.example.com]
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS}]
"""
NETWORK_POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: reviews, namespace: shop}
spec:
  podSelector: {matchLabels: {app: reviews}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {}}]
    ports: [{port: 9080}, {port: 15008}]
"""

CLEAN = [SHOP, BOUND + "---" + WAYPOINT, SHOP + "---" + L4_POLICY, SHOP + "---" + PEERS]
CLEAN += ["---".join((BOUND, WAYPOINT, VIRTUAL_SERVICE, RULE))]
CLEAN += ["---".join((BOUND, WAYPOINT, ROUTE)), "---".join((SHOP, ENTRY))]


@pytest.mark.parametrize("text", CLEAN)
def test_what_is_right_has_no_findings(text):
    assert found(text) == set()


MISTAKES = [
    # Schema and versions.
    ("IST0106 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace("principals", "principal")),
    ("IST0133 ServiceEntry shop/api", SHOP, ENTRY.replace("DNS", "STATIC")),
    ("IST0106 Pod shop/odd", "kind: Pod\nmetadata: {name: odd, labels: {a: 1}}"),
    ("IST0002 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace("io/v1", "io/v1beta1")),
    ("IST0002 DestinationRule shop/reviews", BOUND, WAYPOINT, RULE.replace(
        "host: reviews", "host: reviews, trafficPolicy: {loadBalancer: {simple: LEAST_CONN}}")),
    ("IST0002 VirtualService shop/reviews", BOUND, WAYPOINT, VIRTUAL_SERVICE.replace(
        "[{route", "[{mirrorPercent: 5, route")),
    ("AMB0002 Sidecar shop/tune", """
        apiVersion: networking.istio.io/v1
        kind: Sidecar
        metadata: {name: tune}
        """),
    # Annotations.
    ("IST0107 Service shop/a", "kind: Service\nmetadata: {name: a, annotations: "
     "{ambient.istio.io/dns-capture: 'true'}}"),
    ("IST0108 Pod shop/a", "kind: Pod\nmetadata: {name: a, annotations: "
     "{ambient.istio.io/dns-captur: 'true'}}"),
    ("IST0125 Pod shop/a", "kind: Pod\nmetadata: {name: a, annotations: "
     "{ambient.istio.io/dns-capture: 'yes'}}"),
    ("IST0125 Pod shop/a", "kind: Pod\nmetadata: {name: a, annotations: "
     "{ambient.istio.io/redirection-backend: iptables}}"),
    ("IST0125 Namespace n", "kind: Namespace\nmetadata: {name: n, annotations: "
     "{istio.io/use-waypoint-canary-weight: '200'}}"),
    ("IST0135 Pod shop/a", "kind: Pod\nmetadata: {name: a, annotations: "
     "{traffic.sidecar.istio.io/kubevirtInterfaces: eth0}}"),
    # Hosts, ports and subsets.
    ("IST0101 VirtualService shop/reviews", BOUND, WAYPOINT,
     VIRTUAL_SERVICE.replace("host: reviews", "host: review")),
    ("IST0101 VirtualService shop/reviews", BOUND, WAYPOINT,
     VIRTUAL_SERVICE.replace("host: reviews", "host: reviews, port: {number: 80}")),
    ("IST0101 VirtualService shop/reviews", BOUND, WAYPOINT, RULE,
     VIRTUAL_SERVICE.replace("host: reviews", "host: reviews, subset: v2")),
    ("IST0101 VirtualService shop/reviews", BOUND, WAYPOINT,
     VIRTUAL_SERVICE.replace("{route: ", "{mirror: {host: nobody}, route: ")),
    ("IST0101 VirtualService shop/reviews", BOUND, WAYPOINT,
     VIRTUAL_SERVICE.replace("route: [{destination: {host: reviews}}]", "delegate: {name: gone}")),
    ("IST0112 VirtualService shop/reviews", WAYPOINT,
     BOUND.replace("{app: reviews}, ports: [", "{app: reviews}, ports: [{name: http-a, port: 1}, "),
     VIRTUAL_SERVICE),
    ("IST0173 DestinationRule shop/reviews", BOUND, WAYPOINT,
     RULE.replace("version: v1", "version: v7")),
    ("IST0174 DestinationRule shop/reviews", BOUND, WAYPOINT,
     RULE.replace("host: reviews", "host: nobody")),
    ("IST0128 DestinationRule shop/reviews", BOUND, WAYPOINT, RULE.replace(
        "host: reviews", "host: reviews, trafficPolicy: {tls: {mode: SIMPLE}}")),
    ("IST0129 DestinationRule shop/reviews", BOUND, WAYPOINT, RULE.replace(
        "host: reviews", "host: reviews, trafficPolicy: {portLevelSettings: "
        "[{port: {number: 9080}, tls: {mode: SIMPLE}}]}")),
    ("AMB0504 DestinationRule shop/reviews", BOUND, WAYPOINT, RULE.replace(
        "host: reviews", "host: reviews, trafficPolicy: {tls: {mode: DISABLE}}")),
    # Routes.
    ("IST0109 VirtualService shop/other", BOUND, WAYPOINT, VIRTUAL_SERVICE,
     VIRTUAL_SERVICE.replace("name: reviews,", "name: other,")),
    ("IST0130 VirtualService shop/reviews", BOUND, WAYPOINT,
     VIRTUAL_SERVICE.replace("http: [", "http: [{redirect: {uri: /a}}, ")),
    ("IST0130 VirtualService shop/reviews", BOUND, WAYPOINT, VIRTUAL_SERVICE.replace(
        "http: [", "http: [{match: [{uri: {exact: /a}}], redirect: {uri: /b}}, "
        "{match: [{uri: {exact: /a}}], redirect: {uri: /c}}, ")),
    ("IST0131 VirtualService shop/reviews", BOUND, WAYPOINT, VIRTUAL_SERVICE.replace(
        "http: [", "http: [{match: [{uri: {exact: /a}}], redirect: {uri: /b}}, "
        "{match: [{uri: {exact: /a}}, {uri: {exact: /z}}], redirect: {uri: /c}}, ")),
    ("AMB0002 VirtualService shop/reviews", BOUND, WAYPOINT,
     VIRTUAL_SERVICE.replace("hosts:", "gateways: [edge]\n  hosts:")),
    ("AMB0506 VirtualService shop/reviews", BOUND, WAYPOINT, VIRTUAL_SERVICE, ROUTE),
    ("IST0101 HTTPRoute shop/reviews", BOUND, WAYPOINT,
     ROUTE.replace("[{name: reviews,", "[{name: nobody,")),
    ("IST0101 HTTPRoute shop/reviews", BOUND, WAYPOINT,
     ROUTE.replace("{name: reviews, port: 9080}]}", "{name: reviews, port: 81}]}")),
    ("IST0101 HTTPRoute shop/reviews", BOUND, WAYPOINT,
     ROUTE.replace('{group: "", kind: Service, name: reviews, port: 9080}', "{name: edge}")),
    ("AMB0206 HTTPRoute shop/reviews", SHOP, ROUTE),
    ("AMB0505 HTTPRoute shop/reviews", BOUND, WAYPOINT, """
        kind: Service
        metadata: {name: shared, namespace: web}
        spec: {ports: [{name: http, port: 80}]}
        """, ROUTE.replace('{group: "", kind: Service, name: reviews, port: 9080}',
                           "{name: waypoint}")
     .replace("[{name: reviews,", "[{name: shared, namespace: web,").replace("9080}]}", "80}]}")),
    ("AMB0507 HTTPRoute shop/second", BOUND, WAYPOINT, ROUTE,
     ROUTE.replace("name: reviews, namespace", "name: second, namespace")),
    ("AMB0508 Gateway shop/edge", """
        apiVersion: gateway.networking.k8s.io/v1
        kind: Gateway
        metadata: {name: edge}
        spec:
          gatewayClassName: other
          listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}]
        """),
    ("IST0171 Gateway shop/waypoint", BOUND, WAYPOINT + "status: {conditions: "
     "[{type: Programmed, status: 'False', reason: Invalid, message: no}]}"),
    # Waypoints.
    ("AMB0201 Namespace shop", BOUND),
    ("AMB0201 Service shop/reviews", SHOP.replace(
        "metadata: {name: reviews, namespace: shop}\nspec: {selector",
        "metadata: {name: reviews, namespace: shop, labels: {istio.io/use-waypoint: w}}\n"
        "spec: {selector")),
    ("AMB0202 Namespace web", SHOP.replace(
        "{name: web, labels: {istio.io/dataplane-mode: ambient}}",
        "{name: web, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint, "
        "istio.io/use-waypoint-namespace: shop}}"), WAYPOINT, """
        kind: Service
        metadata: {name: shared, namespace: web}
        spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
        """),
    ("AMB0203 Service shop/reviews", SHOP.replace(
        "metadata: {name: reviews, namespace: shop}\nspec: {selector",
        "metadata: {name: reviews, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}\n"
        "spec: {selector"), WAYPOINT.replace(
            "namespace: shop", "namespace: shop, labels: {istio.io/waypoint-for: workload}")),
    ("AMB0204 Gateway shop/waypoint", SHOP, WAYPOINT),
    ("AMB0205 Namespace shop", BOUND.replace("istio.io/dataplane-mode: ambient, ", ""), WAYPOINT),
    ("AMB0206 VirtualService shop/reviews", SHOP, VIRTUAL_SERVICE),
    ("AMB0206 DestinationRule shop/reviews", SHOP, RULE),
    ("AMB0206 ServiceEntry shop/api", SHOP, ENTRY.replace("api.example", "'*.example'").replace(
        "'*.example'.com", "'*.example.com'").replace("DNS", "NONE")),
    ("AMB0207 Namespace n", "kind: Namespace\nmetadata: {name: n, labels: "
     "{istio.io/use-waypoint-namespace: shop}}"),
    ("AMB0207 Service shop/reviews", SHOP.replace(
        "metadata: {name: reviews, namespace: shop}\nspec: {selector",
        "metadata: {name: reviews, namespace: shop, labels: {istio.io/use-waypoint: waypoint, "
        "istio.io/use-waypoint-canary: waypoint}}\nspec: {selector"), WAYPOINT),
    # Policies.
    ("IST0167 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace(
        "rules:", "action: DENY\n  rules:").replace("from: [{source: {principals: "
        "[cluster.local/ns/web/sa/default]}}]", "to: [{operation: {methods: [PUT]}}]")),
    ("IST0166 AuthorizationPolicy shop/allow", BOUND, WAYPOINT, L4_POLICY.replace(
        "rules:", "action: DENY\n  rules:").replace("from: [{source: {principals: "
        "[cluster.local/ns/web/sa/default]}}]", "to: [{operation: {methods: [PUT]}}]")),
    ("IST0167 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace(
        "selector: {matchLabels: {app: reviews}}",
        "targetRefs: [{group: '', kind: Service, name: reviews}]")),
    ("IST0101 BackendTLSPolicy shop/reviews", BOUND, WAYPOINT, BACKEND_TLS, NO_CA),
    ("IST0101 BackendTLSPolicy shop/reviews", BOUND, WAYPOINT,
     BACKEND_TLS.replace("kind: Service, name: reviews", "kind: Service, name: gone")),
    ("AMB0103 BackendTLSPolicy shop/second", BOUND, WAYPOINT,
     BACKEND_TLS, BACKEND_TLS.replace("name: reviews, namespace", "name: second, namespace")),
    ("IST0101 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace(
        "selector: {matchLabels: {app: reviews}}",
        "targetRefs: [{group: '', kind: Service, name: nobody}]")),
    ("IST0167 RequestAuthentication shop/jwt", SHOP, """
        apiVersion: security.istio.io/v1
        kind: RequestAuthentication
        metadata: {name: jwt}
        spec: {jwtRules: [{issuer: a}]}
        """),
    ("IST0127 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace("app: reviews", "app: rev")),
    ("IST0127 ServiceEntry shop/api", SHOP, ENTRY.replace("resolution: DNS",
     "resolution: STATIC\n  workloadSelector: {labels: {app: nobody}}")),
    ("AMB0101 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace(
        "[{from", "[{to: [{operation: {methods: [GET]}}], from")),
    ("AMB0102 AuthorizationPolicy shop/allow", L4_POLICY,
     SHOP.replace("{name: shop, labels: {istio.io/dataplane-mode: ambient}}", "{name: shop}")),
    ("AMB0103 AuthorizationPolicy shop/allow", SHOP, L4_POLICY, L4_POLICY.replace(
        "name: allow", "name: deny").replace("rules:", "action: DENY\n  rules:").replace(
            "cluster.local/ns/web/sa/default", "cluster.local/ns/web/*")),
    ("AMB0103 AuthorizationPolicy shop/twin", SHOP, L4_POLICY, L4_POLICY.replace(
        "name: allow", "name: twin")),
    ("AMB0104 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace("ns/web", "ns/wbe")),
    ("AMB0104 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace(
        "principals: [cluster.local/ns/web/sa/default]", "namespaces: [wbe]")),
    ("AMB0104 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace(
        "cluster.local/ns/web/sa/default", "default")),
    ("AMB0109 AuthorizationPolicy shop/allow", SHOP, L4_POLICY.replace(
        "namespace: shop", "namespace: shop, annotations: {istio.io/dry-run: 'true'}")),
    # Peers.
    ("AMB0105 PeerAuthentication shop/second", SHOP, PEERS, PEERS.replace(
        "name: own", "name: second").replace("2026-01", "2026-02").replace("STRICT", "PERMISSIVE")),
    ("AMB0105 PeerAuthentication shop/b", SHOP, PEERS.replace("name: own", "name: a").replace(
        "spec: {", "spec: {selector: {matchLabels: {app: reviews}}, "), PEERS.replace(
            "name: own", "name: b").replace(
                "spec: {mtls: {mode: STRICT}}",
                "spec: {selector: {matchLabels: {version: v1}}, mtls: {mode: PERMISSIVE}}")),
    ("AMB0106 PeerAuthentication shop/own", SHOP, PEERS.replace("STRICT", "DISABLE")),
    ("AMB0107 PeerAuthentication shop/own", SHOP.replace(
        "{app: reviews}, ports: [{name: http, port: 9080}]",
        "{app: reviews}, ports: [{name: http, port: 80, targetPort: 9080}]"), PEERS.replace(
        "mtls: {mode: STRICT}", "selector: {matchLabels: {app: reviews}}, "
        "portLevelMtls: {'80': {mode: PERMISSIVE}}")),
    # Enrolment.
    ("AMB0301 Namespace n", "kind: Namespace\nmetadata: {name: n, labels: "
     "{istio.io/dataplane-mode: ambient, istio-injection: enabled}}"),
    ("AMB0301 Deployment shop/details", SHOP.replace(
        "{labels: {app: details, ", "{labels: {sidecar.istio.io/inject: 'true', app: details, ")),
    ("AMB0302 Namespace n", "kind: Namespace\nmetadata: {name: n, labels: "
     "{istio.io/dataplane-mode: Ambient}}"),
    ("AMB0302 Namespace n", "kind: Namespace\nmetadata: {name: n, labels: "
     "{istio.io/dataplane_mode: ambient}}"),
    ("AMB0302 Namespace kube-system", "kind: Namespace\nmetadata: {name: kube-system, labels: "
     "{istio.io/dataplane-mode: ambient}}"),
    ("AMB0302 Deployment shop/details", SHOP.replace(
        "{name: details, namespace: shop}\nspec:\n",
        "{name: details, namespace: shop, labels: {istio.io/dataplane-mode: none}}\nspec:\n")),
    ("AMB0303 Deployment shop/details", SHOP.replace(
        "serviceAccountName: details", "hostNetwork: true")),
    ("AMB0304 Pod shop/p", SHOP, "kind: Pod\nmetadata: {name: p}\nstatus: {phase: Running}"),
    # Services.
    ("IST0116 Deployment shop/details", SHOP, """
        kind: Service
        metadata: {name: other}
        spec: {selector: {app: details}, ports: [{name: tcp, port: 9080}]}
        """),
    ("IST0137 Deployment shop/details", SHOP, """
        kind: Service
        metadata: {name: other}
        spec: {selector: {app: details}, ports: [{name: http, port: 80, targetPort: 9080}]}
        """),
    ("IST0118 Service shop/reviews", WAYPOINT,
     BOUND.replace("{app: reviews}, ports: [{name: http", "{app: reviews}, ports: [{name: web")),
    ("IST0150 Service shop/far", """
        kind: Service
        metadata: {name: far}
        spec: {type: ExternalName, externalName: a.b, ports: [{name: tcp, port: 1}]}
        """),
    ("AMB0501 Service shop/reviews", WAYPOINT, ROUTE,
     BOUND.replace("{app: reviews}, ports: [{name: http", "{app: reviews}, ports: [{name: tcp-a")),
    ("AMB0502 Service shop/reviews", SHOP.replace(
        "{app: reviews}, ports: [{name: http, port: 9080}]",
        "{app: reviews}, ports: [{name: http, port: 9080, targetPort: http}]")),
    ("IST0134 ServiceEntry shop/api", SHOP, ENTRY.replace("resolution: DNS", "resolution: NONE")),
    ("IST0177 ServiceEntry shop/other", SHOP, ENTRY, ENTRY.replace("name: api", "name: other")
     .replace("TLS", "HTTP")),
    ("AMB0503 ServiceEntry shop/other", SHOP, ENTRY, ENTRY.replace("name: api", "name: other")),
    # NetworkPolicies.
    ("AMB0401 NetworkPolicy shop/reviews", SHOP, NETWORK_POLICY.replace(", {port: 15008}", "")),
    ("AMB0401 NetworkPolicy shop/reviews", SHOP, """
        apiVersion: networking.k8s.io/v1
        kind: NetworkPolicy
        metadata: {name: reviews}
        spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 9080}]}]}
        """),
    ("AMB0402 NetworkPolicy shop/reviews", SHOP, NETWORK_POLICY),
    ("AMB0403 NetworkPolicy shop/reviews", NETWORK_POLICY, SHOP.replace(
        "ports: [{name: web, containerPort: 9080}]",
        "ports: [{name: web, containerPort: 9080}], readinessProbe: {httpGet: {port: web}}")),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "texts"), [(one[0], one[1:]) for one in MISTAKES])
def test_the_mistake_is_found(wanted, texts):
    assert wanted in found(*texts)


def test_every_finding_has_a_remedy_or_names_the_reason():
    for _, *texts in MISTAKES:
        for one in findings(*texts):
            assert one.remedy or one.code in (codes.NEGATIVE_CONDITION, codes.SCHEMA_ERROR), one


def _secret(pem, name="cacerts"):
    data = {key: base64.b64encode(pem).decode() for key in ("ca-cert.pem", "root-cert.pem")}
    return f"kind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\ndata: {data}"


def test_an_expired_authority_is_an_error_and_a_month_before_a_warning():
    pem = TestCa().roots
    ends = load_pem_x509_certificate(pem).not_valid_after_utc
    text = _secret(pem)

    def levels(now):
        return {one.severity for one in findings(text, only=["certificates"], now=now)}

    assert levels(ends + timedelta(seconds=1)) == {Severity.ERROR}
    assert levels(ends - timedelta(minutes=10)) == {Severity.WARNING}
    assert levels(ends - timedelta(days=99999)) == {Severity.ERROR}  # not valid yet
    assert found(_secret(b"rubbish")) == {"AMB0602 Secret istio-system/cacerts"}


def test_a_namespace_that_trusts_other_roots():
    def roots(namespace, pem):
        data = json.dumps({"root-cert.pem": pem.decode()})
        name = f"{{name: istio-ca-root-cert, namespace: {namespace}}}"
        return f"kind: ConfigMap\nmetadata: {name}\ndata: {data}"

    ours, other = TestCa().roots, TestCa().roots
    assert found(roots("istio-system", ours), roots("shop", ours)) == set()
    assert found(roots("istio-system", ours), roots("shop", other)) == {
        "AMB0603 ConfigMap shop/istio-ca-root-cert"
    }


def test_definitions_that_the_cluster_lacks_and_too_old_ones():
    old = """
        kind: CustomResourceDefinition
        metadata: {name: gateways.gateway.networking.k8s.io}
        spec: {versions: [{name: v1beta1, served: true}]}
        """
    told = found(old, listed=["CustomResourceDefinition"], only=["definitions"])
    assert "IST0156 CustomResourceDefinition gateways.gateway.networking.k8s.io" in told
    assert "AMB0001 CustomResourceDefinition httproutes.gateway.networking.k8s.io" in told
    assert found(old, only=["definitions"]) == set()  # files need not carry definitions


WEBHOOK = """
kind: ValidatingWebhookConfiguration
metadata: {name: v}
webhooks:
- name: rev.validation.istio.io
  clientConfig: {service: {namespace: istio-system, name: istiod, path: /validate}, caBundle: eA==}
"""


def test_a_webhook_without_its_service_or_with_a_broken_bundle():
    told = findings(WEBHOOK, listed=["Service"], only=["webhooks"])
    assert {one.code.id for one in told} == {"IST0139"}
    assert len(told) == 2
    assert "every write is refused" in " ".join(one.message for one in told)


def test_pain_41_what_is_about_sidecars_is_not_said_of_a_namespace_of_the_mesh():
    told = {one.partition(" ")[0] for one in found(SHOP, "kind: Pod\nmetadata: {name: p}")}
    assert not told & {"IST0102", "IST0103", "IST0158"}


def test_findings_name_the_file_and_the_line_of_the_field():
    text = SHOP + "---" + L4_POLICY.replace("principals", "principal")
    (one,) = [one for one in findings(text) if one.code is codes.SCHEMA_ERROR]
    wanted = next(n for n, line in enumerate(text.splitlines(), 1) if "principal:" in line)
    assert (one.file, one.line) == ("f.yaml", wanted)


@pytest.mark.parametrize(
    ("text", "hides"),
    [
        ("AMB0204", True),
        ("AMB0*", True),
        ("AMB0204=Gateway waypoint.shop", True),
        ("AMB0204=Gateway *.shop", True),
        ("AMB0204=gateway waypoint", True),
        ("AMB0204=Service *", False),
        ("AMB0204=Gateway *.web", False),
        ("IST0101", False),
    ],
)
def test_suppression(text, hides):
    told = analyze(corpus(SHOP, WAYPOINT), suppressed=[Suppression.parse(text)])
    assert (told == []) is hides


def test_an_object_can_mute_a_code_about_itself():
    muted = WAYPOINT.replace(
        "namespace: shop",
        "namespace: shop, annotations: {galley.istio.io/analyze-suppress: AMB0204}",
    )
    assert found(SHOP, muted) == set()


def test_codes_are_unique_and_every_analyzer_says_what_it_looks_for():
    declared = [one for one in vars(codes).values() if isinstance(one, type(codes.NOT_FOUND))]
    assert len({one.id for one in declared}) == len(declared) == len(codes.ALL)
    assert all(analyzer.__doc__ for analyzer in ANALYZERS.values())


def test_pain_50_a_scraper_outside_the_mesh_and_strict():
    scraped = SHOP.replace(
        "metadata: {labels: {app: details, version: v1}}",
        "metadata: {labels: {app: details}, annotations: "
        "{prometheus.io/scrape: 'true', prometheus.io/port: '9090'}}",
    )
    scraper = """
        kind: Pod
        metadata: {name: prom, namespace: monitoring, labels: {app.kubernetes.io/name: prometheus}}
        """
    (one,) = findings(scraped, scraper, PEERS, only=["scrapes"])
    assert 'portLevelMtls: {"9090": {mode: PERMISSIVE}}' in one.remedy
    excepted = PEERS.replace("name: own", "name: scrape").replace(
        "spec: {mtls: {mode: STRICT}}",
        "spec: {selector: {matchLabels: {app: details}}, "
        "portLevelMtls: {'9090': {mode: PERMISSIVE}}}",
    )
    assert found(scraped, scraper, PEERS, excepted, only=["scrapes"]) == set()
    assert found(scraped, scraper, only=["scrapes"]) == set()


@pytest.mark.parametrize(
    ("allowed", "refused", "conflict"),
    [
        ("principals: [td/ns/web/sa/a]", "namespaces: [web]", True),
        ("principals: [td/ns/web/sa/a, td/ns/shop/sa/b]", "namespaces: [web]", False),
        ("principals: [td/ns/web/sa/a, td/ns/shop/sa/b]", "namespaces: [web, 'sh*']", True),
        ("principals: ['td/ns/web/*']", "namespaces: [web]", False),  # no account is named
        ("serviceAccounts: [web/a]", "namespaces: [web]", True),
        ("principals: [td/ns/web/sa/a], namespaces: [web]", "namespaces: [web]", True),
        ("ipBlocks: [10.0.0.1]", "namespaces: [web]", False),
    ],
)
def test_a_namespace_that_is_denied_takes_back_its_principals(allowed, refused, conflict):
    policy = """
    kind: AuthorizationPolicy
    metadata: {{name: {name}, namespace: shop}}
    spec: {{action: {action}, rules: [{{from: [{{source: {{{source}}}}}]}}]}}
    """
    texts = [
        policy.format(name="allow", action="ALLOW", source=allowed),
        policy.format(name="deny", action="DENY", source=refused),
    ]
    told = found(SHOP, *texts, only=["policy-conflicts"])
    assert ("AMB0103 AuthorizationPolicy shop/allow" in told) is conflict
