"""Commands that describe a running mesh, on the embedded API server."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.unit.ambientctl.meshes import build, istiod, syncz


@pytest.fixture
def mesh(ambientctl):
    build(ambientctl)
    istiod(ambientctl)
    return ambientctl


def cells(text):
    return [line.split() for line in text.splitlines()]


# proxy-status


def test_proxy_status_names_every_proxy_and_its_types(mesh):
    header, *rows = cells(mesh.ok("proxy-status"))
    assert header == ["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED", "TYPES"]
    assert rows == [
        ["ztunnel-1.istio-system", "Kubernetes", "istiod-1", "0.1.0", "2", "(WADS,WDS)"],
        ["ztunnel-2.istio-system", "Kubernetes", "istiod-1", "0.1.0", "1", "(WDS)"],
    ]
    header, one, two = cells(mesh.ok("ps", "-v", "1"))
    assert header[2:4] == ["WADS", "WDS"]
    assert one[2:6] == ["SYNCED", "(3m)", "SYNCED", "(3m)"]
    assert two[2:4] == ["IGNORED", "SYNCED"]
    assert len(mesh.json("ps")) == 2


def test_a_proxy_that_refuses_something_is_named_and_fails_the_command(mesh):
    istiod(mesh, **{"/debug/syncz": syncz(error="bad CIDR in policy shop/details")})
    done = mesh("proxy-status", "ztunnel-1.istio-system")
    assert done.status == 1
    assert "refuses WADS: bad CIDR in policy shop/details" in done.out
    assert mesh("ps", "ztunnel-2.istio-system").status == 0
    lost = mesh("ps", "lost")
    assert lost.status == 1
    assert "proxy lost.default is not connected" in lost.err
    assert "did you mean ztunnel-1.istio-system" in mesh("ps", "ztunel-1.istio-system").err


def test_without_a_control_plane_the_remedy_is_named(ambientctl):
    done = ambientctl("proxy-status")
    assert done.status == 1
    assert done.err == (
        "error: no control plane runs in istio-system\n"
        "hint: kubectl -n istio-system get pods -l app=istiod; ambientctl install\n"
    )


# version


def test_version_of_client_control_plane_and_data_plane(mesh):
    out = mesh.ok("version")
    assert "client version: 0.1.0" in out
    assert "control plane version: 0.1.0 (istiod-1)" in out
    assert "data plane version: 0.1.0 (2 proxies)" in out
    assert mesh.json("version")["dataPlaneVersion"] == {"0.1.0": 2}
    assert mesh.ok("version", "--short") == "0.1.0\n"


def test_version_warns_of_skew_and_lives_without_a_cluster(mesh):
    istiod(mesh, **{"/debug/syncz": syncz(version="0.2.0")})
    assert "newer than the control plane" in mesh("version").err
    istiod(mesh, **{"/version": "0.3.0\n"})
    assert "lags more than one minor version" in mesh("version").err
    assert "the control plane has another version than this program (0.1.0)" in mesh("version").err
    mesh.kubeconfig.unlink()
    done = mesh("version")
    assert done.status == 0
    assert "client version: " in done.out
    assert "the cluster was not asked" in done.err


# proxy-config

DUMP = {
    "certificates": {
        "spiffe://cluster.local/ns/shop/sa/waypoint": {"valid_from": 0, "expires": 4e9},
        "spiffe://cluster.local/ns/shop/sa/old": {"valid_from": 0, "expires": 1},
        "spiffe://cluster.local/ns/shop/sa/late": {"error": "not there yet"},
    },
    "credentials": [
        {"name": "kubernetes://bank", "certificates": []},
        {
            "name": "kubernetes://bank-cacert",
            "certificates": [{"subject": "O=bank", "valid_from": 0, "expires": 4e9}],
        },
    ],
    "objects": [{"kind": "HTTPRoute", "namespace": "shop", "name": "reviews"}],
    "problems": [{"object": "HTTPRoute/shop/reviews", "field": "filters", "text": "unknown"}],
    "services": [
        {
            "service": "shop/reviews.shop.svc.cluster.local",
            "routes": {
                "9080": [
                    {
                        "name": "first",
                        "source": "HTTPRoute shop/reviews",
                        "match": ["path"],
                        "action": "Forward",
                        "backends": [{"backend": "reviews:9080", "share": 0.9}],
                    }
                ]
            },
            "deny": ["shop/no-delete"],
            "allow": [],
            "dry_run": [],
            "endpoints": [
                {"workload": "w", "status": "HEALTHY", "addresses": ["10.244.1.10"]},
                {"workload": "v", "status": "UNHEALTHY", "addresses": []},
            ],
        }
    ],
}


def test_proxy_config_of_a_waypoint_by_its_pod_or_its_gateway(mesh):
    mesh.program("shop/waypoint-1", 15000, {"/config_dump": DUMP})
    assert cells(mesh.ok("pc", "route", "waypoint.shop"))[1] == [
        "shop/reviews.shop.svc.cluster.local", "9080", "first", "path", "Forward",
        "reviews:9080", "90%", "HTTPRoute", "shop/reviews",
    ]  # fmt: skip
    assert len(cells(mesh.ok("pc", "routes", "waypoint-1.shop", "--name", "second"))) == 1
    assert len(cells(mesh.ok("pc", "ep", "waypoint.shop", "--status", "healthy"))) == 2
    assert "DENY     shop/no-delete" in mesh.ok("pc", "policy", "waypoint.shop")
    secrets = mesh.ok("pc", "secret", "waypoint", "-n", "shop")
    assert "UNAVAILABLE" in secrets
    assert [row[2] for row in cells(secrets)[1:]] == ["true", "false", "false", "false", "true"]
    assert "kubernetes://bank-cacert" in secrets
    objects = mesh.ok("proxy-config", "object", "waypoint.shop")
    assert "not used: object=HTTPRoute/shop/reviews" in objects
    assert json.loads(mesh.ok("pc", "all", "waypoint.shop")) == DUMP


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("ztunnel-1.istio-system", "is a ztunnel", "ztunnel-config all ztunnel-1"),
        ("reviews-1.shop", "is no waypoint", "ambientctl zc all reviews-1.shop"),
        ("lost", "neither a pod nor a waypoint", "waypoint list -A"),
    ],
)
def test_proxy_config_of_what_is_no_waypoint_says_where_to_look(mesh, name, said, hint):
    done = mesh("pc", "route", name)
    assert done.status in (1, 2)
    assert said in done.err
    assert hint in done.err


# describe, authz


def test_pain_40_describe_a_pod_of_the_mesh(mesh):
    out = mesh.ok("describe", "pod", "details-1", "-n", "shop")
    assert "In the mesh: yes, its namespace's label istio.io/dataplane-mode=ambient" in out
    assert "Identity: spiffe://cluster.local/ns/shop/sa/details" in out
    assert "Reached by: HBONE" in out
    assert "Services: shop/details" in out
    assert "Effective mTLS mode: STRICT" in out
    assert "tunnel: ALLOW details.shop (AuthorizationPolicy, 1 rule)" in out
    assert "tunnel: LOG trial.shop" in out
    assert "tunnel: DENY istio_converted_static_strict.istio-system (PeerAuthentication" in out


@pytest.mark.parametrize(
    "words",
    [
        ("pod", "deploy/details.shop"), ("pod/details-1.shop",), ("deploy/details.shop",),
        ("deployment.apps/details", "-n", "shop"), ("po", "shop/details-1"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_pod_by_every_name_that_kubectl_and_istioctl_give_it(mesh, words):
    assert mesh.ok("describe", *words).startswith("Pod: shop/details-1\n")


def test_kinds_before_names(mesh):
    assert mesh.ok("describe", "svc/reviews.shop").startswith("Service: shop/reviews (")
    assert mesh.ok("describe", "ns/shop").startswith("Namespace: shop\n")
    assert mesh.ok("authz", "check", "deploy/details.shop") == mesh.ok(
        "authz", "check", "details-1.shop"
    )
    mesh.program("shop/waypoint-1", 15000, {"/config_dump": DUMP})
    by_gateway = mesh.ok("pc", "policy", "waypoint.shop")
    for name in ("gateway/waypoint.shop", "pod/waypoint-1.shop", "shop/waypoint"):
        assert mesh.ok("pc", "policy", name) == by_gateway
    mesh.program("istio-system/ztunnel-2", 15000, {"/config_dump": {"workloads": []}})
    assert mesh("zc", "workload", "deploy/details.shop").status == 0
    assert "ztunnel-1" in mesh.ok("ps", "pod/ztunnel-1.istio-system")


def test_pain_40_describe_a_pod_outside_says_why(mesh):
    out = mesh.ok("describe", "pod", "client-1.outside")
    assert "In the mesh: no, neither it nor its namespace has the label" in out
    assert "Reached by: plain TCP" in out


def test_pain_22_describe_a_service_names_its_waypoint_and_what_it_serves(mesh):
    out = mesh.ok("describe", "svc", "reviews.shop")
    assert "Waypoint: shop/waypoint (label of the object itself)" in out
    assert "Port: http 9080 -> 9080: HTTP11" in out
    assert "Endpoints: 1, of which 1 in the mesh" in out
    assert "waypoint shop/waypoint: DENY no-delete.shop" in out
    space = mesh.ok("describe", "ns", "shop")
    assert "Waypoint here: waypoint for service, used by Service shop/reviews" in space
    assert "mTLS mode: STRICT" in space


def test_describe_says_what_is_wrong_there(mesh):
    mesh.apply(
        """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: late, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: details}]
  action: DENY
  rules: [{to: [{operation: {methods: [PUT]}}]}]
"""
    )
    out = mesh.ok("describe", "namespace", "shop")
    assert "Error [IST0167] AuthorizationPolicy shop/late: " in out
    assert "uses no waypoint" in out
    assert "remedy: ambientctl waypoint apply" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pod", "lost", "-n", "shop"), "pods there: details, details-1, reviews"),
        (("pod", "detials.shop"), "did you mean details"),
        (("service", "lost.shop"), "services there: details"),
        (("namespace", "lost"), "there are: default"),
        (("pod", "/"), "names nothing"),
        (("pod", "web.shopp"), "there is no namespace shopp\nhint: did you mean shop?"),
        (("thing", "web"), "There are namespace, pod, service."),
    ],
)
def test_describe_of_what_is_not_there_names_what_is(mesh, words, said):
    done = mesh("describe", *words)
    assert done.status in (1, 2)
    assert said in done.err


def test_pain_40_authz_check_over_tunnel_and_waypoint(mesh):
    header, *rows = cells(mesh.ok("authz", "check", "reviews-1.shop"))
    assert header == ["ACTION", "POLICY", "RULES", "ENFORCED", "BY", "KIND"]
    assert [row[:2] for row in rows] == [
        ["DENY", "istio_converted_static_strict.istio-system"],
        ["DENY", "no-delete.shop"],
    ]
    (strict, deny) = mesh.json("authz", "check", "svc/reviews.shop")
    assert (strict["by"], deny["by"]) == ("tunnel", "waypoint shop/waypoint")
    kinds = [row["action"] for row in mesh.json("authz", "check", "details.shop")]
    assert kinds == ["DENY", "ALLOW", "LOG"]
    assert "there is no pod or service shop/lost" in mesh("authz", "check", "lost.shop").err


NETWORK_POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: details, namespace: shop}
spec:
  podSelector: {matchLabels: {app: details}}
  policyTypes: [Ingress, Egress]
  egress: [{}]
  ingress:
  - from:
    - podSelector: {matchLabels: {app: reviews}}
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: outside}}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    ports: [{port: 9080}, {port: 15008}]
  - from: [{podSelector: {matchLabels: {app: nobody}}}]
"""


def test_pain_4_the_authorization_policy_that_a_network_policy_means(mesh):
    mesh.apply(NETWORK_POLICY)
    done = mesh("authz", "from-network-policy", "details", "-n", "shop")
    policy = yaml.safe_load(done.out)
    assert policy["spec"] == {
        "action": "ALLOW",
        "selector": {"matchLabels": {"app": "details"}},
        "rules": [
            {
                "from": [
                    {"source": {"principals": ["cluster.local/ns/shop/sa/reviews"]}},
                    {"source": {"namespaces": ["outside"]}},
                    {"source": {"ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.1.0.0/16"]}},
                ],
                "to": [{"operation": {"ports": ["9080"]}}],
            }
        ],
    }
    assert "no pod has these labels now" in done.err
    assert "egress rules have no counterpart" in done.err
    mesh.apply(done.out)  # it is accepted as it is
    assert "IST0106" not in mesh("analyze", "-n", "shop").out


def test_a_misspelt_command_is_answered_with_the_right_one(ambientctl):
    assert "Did you mean 'analyze'?" in ambientctl("anlyze").err
    assert "Did you mean 'workload'?" in ambientctl("zc", "worklod").err
