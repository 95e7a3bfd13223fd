"""``ambientctl check`` finds what is planted in a healthy mesh, and names the remedy."""

from __future__ import annotations

import base64
import copy
import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ambient.telemetry.io.http import Response
from tests.fakes.certs import TestCa
from tests.unit.ambientctl.conftest import serving
from tests.unit.ambientctl.dumps import DUMP
from tests.unit.ambientctl.meshes import build, istiod, syncz

PROGRAMS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod, namespace: istio-system}
spec:
  replicas: 2
  selector: {matchLabels: {app: istiod}}
  template:
    metadata: {labels: {app: istiod}}
    spec: {containers: [{name: c, image: i}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: ztunnel, namespace: istio-system}
spec:
  selector: {matchLabels: {app: ztunnel}}
  template:
    metadata: {labels: {app: ztunnel}}
    spec: {containers: [{name: c, image: i}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: istio-cni-node, namespace: istio-system}
spec:
  selector: {matchLabels: {k8s-app: istio-cni-node}}
  template:
    metadata: {labels: {k8s-app: istio-cni-node}}
    spec: {containers: [{name: c, image: i}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: istio-validator-istio-system}
webhooks:
- name: rev.validation.istio.io
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Ignore
  rules: []
  clientConfig: {url: "https://127.0.0.1:1/validate", caBundle: BUNDLE}
"""


def times(begins=timedelta(hours=-1), ends=timedelta(hours=20), **more):
    now = datetime.now(UTC)
    entry = {
        "serialNumber": "1",
        "validFrom": (now + begins).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "expirationTime": (now + ends).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    identity = "spiffe://cluster.local/ns/shop/sa/reviews"
    certificate = {"identity": identity, "state": "Available", "certChain": [entry], **more}
    return copy.deepcopy(DUMP) | {"certificates": [certificate], "workloads": PODS}


PODS = [
    {"uid": f"Kubernetes//Pod/shop/{app}-1", "workloadIps": [ip], "protocol": "HBONE",
     "name": f"{app}-1", "namespace": "shop", "workloadName": app, "node": node,
     "status": "Healthy", "serviceAccount": app}
    for app, ip, node in (
        ("reviews", "10.244.1.10", "node-1"), ("details", "10.244.2.10", "node-2"),
    )
]  # fmt: skip
SERVED = {
    number: {f"uid-{app}": {"state": "Up", "info": {"name": f"{app}-1", "namespace": "shop"}}}
    for number, app in ((1, "reviews"), (2, "details"))
}


def probed(request, *, stage="done", error="", hint=""):
    """What a tunnel answers for each address of a probe."""
    assert request.query["pod"].startswith("uid-")
    told = {"stage": stage, "error": error, "hint": hint}
    return Response(200, json.dumps([{"to": ip, **told} for ip in request.query["to"].split(",")]))


class Healthy:
    """A mesh in which everything is well; a test breaks one thing."""

    def __init__(self, command_line):
        self.run = command_line
        build(command_line)
        bundle = base64.b64encode(TestCa().roots).decode()
        command_line.apply(PROGRAMS.replace("BUNDLE", bundle))
        self.deployment(2)
        for name in ("ztunnel", "istio-cni-node"):
            self.daemon_set(name, 2)
        for number in (1, 2):
            labels = {"k8s-app": "istio-cni-node"}
            name, node = f"istio-system/istio-cni-node-{number}", f"node-{number}"
            command_line.pod(name, f"10.244.{number}.4", node=node, labels=labels)
            command_line.program(name, 8000, {"/readyz": "ready\n"})
            self.tunnel(number, times())
            self.lease(number)
        istiod(command_line)

    def deployment(self, ready):
        status = {"replicas": 2, "readyReplicas": ready}
        self.run.status("apps/v1", "Deployment", "istio-system/istiod", status)

    def daemon_set(self, name, ready):
        status = {"desiredNumberScheduled": 2, "numberReady": ready}
        self.run.status("apps/v1", "DaemonSet", f"istio-system/{name}", status)

    def tunnel(self, number, dump, probe=None):
        dump["workloadState"] = SERVED[number]
        pages = {"/config_dump": dump, "/probe": probe or probed}
        self.run.program(f"istio-system/ztunnel-{number}", 15000, pages)

    def lease(self, number, ahead=timedelta()):
        moment = (datetime.now(UTC) + ahead).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": f"node-{number}", "namespace": "kube-node-lease"},
            "spec": {"renewTime": moment},
        }
        self.run.apply(json.dumps(lease))

    def found(self, *words):
        """Lines that are not well: state, text, remedy."""
        done = self.run("check", *words, "-o", "json")
        bad = [one for one in json.loads(done.out) if one["state"] != "ok"]
        assert all(one.get("remedy") for one in bad), bad
        return done.status, bad

    def only(self, *words):
        status, bad = self.found(*words)
        assert len(bad) == 1, bad
        return status, bad[0]


@pytest.fixture
def healthy(still):
    return Healthy(still)


def test_a_healthy_mesh(healthy):
    status, bad = healthy.found()
    assert (status, bad) == (0, [])
    out = healthy.run.ok("check")
    assert "✔ replicas: 2 of 2 are ready" in out
    assert "✔ workloads: 2 of" in out
    assert "✔ probes: 2 pods answer other pods at port 15008, each as itself" in out
    assert out.endswith("Status check results are ✔\n")
    assert "✔" in healthy.run.ok("check", "-o", "short")  # the last line


def test_pain_39_agent_down(healthy):
    healthy.daemon_set("istio-cni-node", 1)
    pending = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}
    healthy.run.status("v1", "Pod", "istio-system/istio-cni-node-2", pending)
    away = {"/readyz": lambda _: Response(503, "waiting for the API server\n")}
    healthy.run.program("istio-system/istio-cni-node-2", 8000, away)
    status, bad = healthy.found()
    assert status == 1
    texts = [one["text"] for one in bad]
    assert "1 of 2 are ready; missing on node-2: pods of the mesh wait to start there" in texts
    assert any("the agent on node-2 is not ready" in text for text in texts)


def test_tunnel_down_and_tunnel_not_connected(healthy):
    healthy.daemon_set("ztunnel", 1)
    assert "pods of the mesh have no traffic there" in healthy.only()[1]["text"]
    healthy.daemon_set("ztunnel", 2)
    istiod(healthy.run, **{"/debug/syncz": syncz()[:1]})
    status, one = healthy.only()
    assert status == 1
    assert one["text"] == "not connected to the control plane: ztunnel-2"


def test_no_control_plane_is_ready(healthy):
    healthy.deployment(0)
    assert "none of 2 replicas is ready" in healthy.only()[1]["text"]
    healthy.deployment(1)
    status, one = healthy.only()
    assert (status, one["state"]) == (0, "warning")
    assert healthy.found("--strict")[0] == 1


def test_expired_certificate(healthy):
    healthy.tunnel(2, times(ends=timedelta(seconds=-5), lastError="the CA does not answer"))
    status, one = healthy.only()
    assert status == 1
    assert "sa/reviews at ztunnel-2: expired at " in one["text"]
    assert "the CA does not answer" in one["text"]


def test_a_certificate_that_was_never_issued_and_one_that_nobody_renews(healthy):
    healthy.tunnel(1, times(state="Unavailable: refused: unknown account"))
    assert "was not issued: refused: unknown account" in healthy.only()[1]["text"]
    healthy.tunnel(1, times(ends=timedelta(minutes=20), lastError="timeout"))
    assert "is not renewed: timeout" in healthy.only()[1]["text"]


def test_clock_skew_of_a_node(healthy):
    healthy.lease(2, timedelta(seconds=90))
    status, one = healthy.only()
    assert status == 1
    ahead = re.match(r"clock skew: node-2 \((\d+) s ahead\)", one["text"])
    assert ahead
    assert 30 <= int(ahead[1]) <= 91  # the lease grows older while the check runs
    assert "time service" in one["remedy"]
    healthy.lease(2, timedelta(seconds=-90))
    assert "last heard of: node-2" in healthy.only()[1]["text"]


def dated(body, ahead):
    """An answer of a program whose clock is ahead."""

    def page(_):
        date = format_datetime(datetime.now(UTC) + ahead, usegmt=True)
        return Response(200, body, headers=(("Date", date),))

    return page


def test_clock_skew_of_programs(healthy):
    assert "✔ clock: 5 agree with the API server's" in healthy.run("check").out
    dump = json.dumps(times(begins=timedelta(minutes=-1)) | {"workloadState": SERVED[2]})
    pages = {"/config_dump": dated(dump, timedelta(seconds=-600)), "/probe": probed}
    healthy.run.program("istio-system/ztunnel-2", 15000, pages)
    pages = {"/readyz": dated("ready\n", timedelta(seconds=600))}
    healthy.run.program("istio-system/istio-cni-node-1", 8000, pages)
    _, found = healthy.found()
    texts = " ".join(one["text"] for one in found)
    for told in (r"istio-cni-node-1 on node node-1 is (\d+) s ahead of the API server",
                 r"ztunnel-2 on node node-2 is (\d+) s behind the API server"):  # fmt: skip
        skew = re.search(f"clock skew: {told}", texts)
        assert skew, texts
        assert 500 <= int(skew[1]) <= 600  # a slow answer leaves a part of it open
    # By its own clock the tunnel's new certificate is not valid yet, and by ours it is.
    assert re.search("is not valid before .*: clocks differ", texts)
    assert all("chronyc" in one["remedy"] for one in found if "clock skew" in one["text"])


def test_clock_skew_shows_in_certificates_too(healthy):
    healthy.tunnel(1, times(begins=timedelta(minutes=5)))
    assert "clocks differ" in healthy.only()[1]["text"]


def test_pain_3_blocked_15008(healthy):
    healthy.run.apply(
        """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: reviews, namespace: shop}
spec:
  podSelector: {matchLabels: {app: reviews}}
  policyTypes: [Ingress]
  ingress: [{ports: [{port: 9080}]}]
"""
    )
    status, one = healthy.only()
    assert status == 1
    assert one["category"] == "network-policies"
    assert "traffic of the mesh goes to port 15008" in one["text"]
    assert one["remedy"] == "add {protocol: TCP, port: 15008} to the ports of this rule"


def failing(stage, error):
    return lambda request: probed(request, stage=stage, error=error)


@pytest.mark.parametrize(
    ("stage", "said", "remedy"),
    [
        ("connect", "no answer within 2 s", "let TCP 15008 through: no NetworkPolicy selects"),
        ("connect", "Connection refused", "nobody listens there: ambientctl describe pod"),
        ("handshake", "certificate has expired", "about clocks and certificates"),
        ("identity", "no certificate", "kubectl -n istio-system logs ztunnel-1"),
    ],
)
def test_pain_3_a_pod_that_no_other_reaches(healthy, stage, said, remedy):
    healthy.tunnel(1, times(), failing(stage, said))
    status, one = healthy.only()
    assert status == 1
    assert one["name"] == "shop/details-1"
    assert one["text"] == (
        f"shop/reviews-1 cannot reach the tunnel of shop/details-1 (node-1 to node-2): {said}"
    )
    assert remedy in one["remedy"]
    assert healthy.run("check", "--no-probe").status == 0


def test_pain_3_a_pod_that_a_network_policy_isolates_may_be_meant_so(healthy):
    healthy.run.apply(
        """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: shop}
spec: {podSelector: {matchLabels: {app: details}}, policyTypes: [Ingress]}
"""
    )
    healthy.tunnel(1, times(), failing("connect", "no answer within 2 s"))
    status, one = healthy.only()
    assert (status, one["state"]) == (0, "warning")
    assert one["remedy"].endswith("from its callers: NetworkPolicy shop/nobody")


def test_a_tunnel_that_cannot_probe_is_named(healthy):
    healthy.tunnel(1, times(), lambda _: Response(404, "not found\n"))
    status, one = healthy.only()
    assert (status, one["state"]) == (0, "skipped")
    assert "no probe by ztunnel-1: " in one["text"]
    healthy.tunnel(1, times(), lambda _: Response(200, "[]"))
    assert "does not answer as tunnels of this mesh do" in healthy.only()[1]["text"]


def test_pain_5_probes_behind_a_network_policy_name_the_rule_that_is_missing(healthy):
    healthy.run.apply(
        """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: probed, namespace: shop, labels: {app: probed},
           annotations: {ambient.istio.io/redirection: enabled}}
spec:
  nodeName: node-1
  containers: [{name: c, image: i, readinessProbe: {httpGet: {port: 8080}}}]
"""
    )
    _, one = healthy.only()
    assert "ipBlock 169.254.7.127/32 to port 8080" in one["remedy"]


def test_wrong_label_missing_waypoint_and_conflicting_policies(healthy):
    healthy.run.apply(
        """
apiVersion: v1
kind: Namespace
metadata: {name: outside, labels: {istio.io/dataplane_mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: details, namespace: shop, labels: {istio.io/use-waypoint: wypoint}}
spec: {clusterIP: 10.96.0.21, selector: {app: details}, ports: [{name: http, port: 9080}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: none, namespace: shop}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{from: [{source: {namespaces: ["outside"], principals: ["cluster.local/ns/*"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: wide, namespace: shop}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{from: [{source: {principals: ["*"]}}]}]
"""
    )
    status, bad = healthy.found()
    assert status == 1
    said = {one["name"]: one for one in bad}
    label = said["AMB0302 Namespace outside"]
    assert label["remedy"] == "did you mean istio.io/dataplane-mode?"
    waypoint = said["AMB0201 Service shop/details"]
    assert waypoint["remedy"] == "ambientctl waypoint apply -n shop --name wypoint"
    conflict = said["AMB0103 AuthorizationPolicy shop/details"]
    assert "AuthorizationPolicy shop/wide, spec.rules[0], denies all of it" in conflict["text"]


CILIUM = """
apiVersion: v1
kind: ConfigMap
metadata: {name: cilium-config, namespace: kube-system}
data: {cni-exclusive: "true", enable-bpf-masquerade: "true", bpf-lb-sock: "true"}
"""


def test_pain_6_settings_of_cilium_before_anything_is_installed(still):
    still.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node-1}")
    still.apply(CILIUM)
    done = still("check", "--pre", "-o", "json")
    assert done.status == 1
    names = {one["name"] for one in json.loads(done.out) if one["state"] == "error"}
    assert names == {"cni-exclusive", "bpf-masquerade", "socket-lb"}
    assert "cni.exclusive=false" in done.out
    still.apply(CILIUM.replace('"true"', '"false"'))
    assert still("check", "--pre").status == 0


AMAZON = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: aws-node, namespace: kube-system}
spec:
  selector: {matchLabels: {app: aws-node}}
  template:
    metadata: {labels: {app: aws-node}}
    spec:
      initContainers:
      - name: aws-vpc-cni-init
        image: init
        env: [{name: DISABLE_TCP_EARLY_DEMUX, value: "false"}]
      containers:
      - name: aws-node
        image: plugin
        env: [{name: ENABLE_POD_ENI, value: "true"}]
"""


@pytest.mark.parametrize(
    ("found", "replaced", "warned"),
    [
        ("", "", True),
        ('DEMUX, value: "false"', 'DEMUX, value: "true"', False),
        ('ENI, value: "true"', 'ENI, value: "false"', False),
        (
            "[{name: ENABLE",
            "[{name: POD_SECURITY_GROUP_ENFORCING_MODE, value: standard}, {name: ENABLE",
            False,
        ),
    ],
)
def test_pain_7_security_groups_for_pods(still, found, replaced, warned):
    still.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node-1}")
    still.apply(AMAZON.replace(found, replaced) if found else AMAZON)
    done = still("check", "--pre")
    assert ("DISABLE_TCP_EARLY_DEMUX=true" in done.out) is warned


def test_an_old_kernel_and_an_old_gateway_api(tmp_path):
    with serving(tmp_path, crds=False, controllers=False) as bare:
        bare.node("node-1")
        bare.status("v1", "Node", "node-1", {"nodeInfo": {"kernelVersion": "4.19.0-1-amd64"}})
        done = bare("check", "--pre")
        assert done.status == 1
        assert "kernel: older than 5.4: node-1 (4.19.0-1-amd64)" in done.out
        assert "an installation brings those that are missing" in done.out
        done = bare("check")
        assert "there is no mesh in istio-system" in done.out
        assert "missing: gateways.gateway.networking.k8s.io" in done.out


def test_pod_security_that_refuses_the_daemon_sets(still):
    still.node("node-1")
    still.apply(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system, "
        "labels: {pod-security.kubernetes.io/enforce: restricted}}"
    )
    done = still("check", "--pre")
    assert done.status == 1
    assert "pod-security.kubernetes.io/enforce=privileged" in done.out


def test_whoever_may_not_look_is_told_so(healthy):
    done = healthy.run("check", "--pre")
    assert "a mesh is installed in istio-system already" in done.out
    reader = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "x", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    path = healthy.run.file("away", json.dumps(reader))
    done = healthy.run("check", "-c", path)
    assert done.status == 1
    assert "error: the API server https://127.0.0.1:1 does not answer" in done.err
    done = healthy.run("check", "--context", "lost")
    assert done.status == 2
    assert "lost" in done.err


def test_wait_looks_again_until_all_is_well(healthy):
    healthy.deployment(0)
    assert healthy.run("check", "--wait", "0.01").status == 1
