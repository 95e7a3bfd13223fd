"""Real kubectl against the server, as a user types it."""

from __future__ import annotations

import json
import re

import pytest
import trio

WEB = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{port: 80, name: http, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: app, image: "app:v1", ports: [{containerPort: 8080, name: http}]}
"""
NODE = """
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {conditions: [{type: Ready, status: "True"}]}
"""
PODS = ("", "pods")


async def until(condition):
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.01)


def make_ready(running, namespace="shop"):
    """Be the kubelet: every bound pod runs, every deleted one is gone."""
    cluster = running.server.cluster
    kind = cluster.catalogue.of("v1", "Pod")
    for i, pod in enumerate(cluster.store.objects(PODS, namespace)):
        name = pod["metadata"]["name"]
        if pod["metadata"].get("deletionTimestamp"):
            cluster.store.remove(PODS, namespace, name)
        elif pod["spec"].get("nodeName") and pod["status"]["phase"] == "Pending":
            status = {
                "phase": "Running",
                "podIP": f"10.244.1.{i + 2}",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "app", "ready": True, "state": {"running": {}}}],
            }
            cluster.store.put(PODS, {**pod, "status": status})
    assert kind is not None


async def kubelet(running):
    while True:
        make_ready(running)
        await trio.sleep(0.01)


async def test_a_first_session(kubectl, running):
    created = await kubectl("apply", "-f", "-", stdin=WEB)
    assert created.splitlines() == [
        "namespace/shop created",
        "service/web created",
        "deployment.apps/web created",
    ]
    assert set((await kubectl("apply", "-f", "-", stdin=WEB)).split()[1::2]) == {"unchanged"}
    changed = await kubectl("apply", "-f", "-", stdin=WEB.replace("app:v1", "app:v2"))
    assert "deployment.apps/web configured" in changed
    wide = await kubectl("get", "pods", "-A", "-o", "wide")
    assert wide.split("\n")[0].split() == [
        *("NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"),
        *("NOMINATED", "NODE", "READINESS", "GATES"),
    ]
    assert "Pending" in wide
    await kubectl("label", "namespace", "shop", "istio.io/dataplane-mode=ambient")
    assert "ambient" in await kubectl("get", "ns", "-L", "istio.io/dataplane-mode")
    await kubectl("annotate", "-n", "shop", "svc", "web", "note=hello")
    described = await kubectl("describe", "-n", "shop", "svc", "web")
    assert "note: hello" in described
    assert re.search(r"^Selector: +app=web$", described, re.MULTILINE)
    assert (await kubectl("get", "ns", "shop", "-o", "jsonpath={.status.phase}")) == "Active"


async def test_patches_of_every_kind(kubectl):
    await kubectl("create", "configmap", "c", "--from-literal=a=1")
    await kubectl("patch", "cm", "c", "-p", '{"data":{"b":"2"}}')
    await kubectl("patch", "cm", "c", "--type=merge", "-p", '{"data":{"a":null}}')
    operation = '[{"op":"add","path":"/data/c","value":"3"}]'
    await kubectl("patch", "cm", "c", "--type=json", "-p", operation)
    found = json.loads(await kubectl("get", "cm", "c", "-o", "json"))
    assert found["data"] == {"b": "2", "c": "3"}


async def test_server_side_apply_and_its_conflict(kubectl):
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '%s'}\n"
    flags = ("apply", "--server-side", "-f", "-")
    await kubectl(*flags, stdin=manifest % 1)
    said = await kubectl(*flags, "--field-manager=you", stdin=manifest % 2, fails=True)
    assert 'conflict with "kubectl": .data.a' in said
    await kubectl(*flags, "--field-manager=you", "--force-conflicts", stdin=manifest % 2)
    assert await kubectl("get", "cm", "c", "-o", "jsonpath={.data.a}") == "2"


async def test_a_rollout_from_start_to_end(kubectl, running, nursery):
    await kubectl("apply", "-f", "-", stdin=NODE + "---" + WEB)
    nursery.start_soon(kubelet, running)
    done = await kubectl("rollout", "status", "-n", "shop", "deploy/web", "--timeout=30s")
    assert 'deployment "web" successfully rolled out' in done
    await kubectl("set", "image", "-n", "shop", "deploy/web", "app=app:v2")
    await kubectl("rollout", "status", "-n", "shop", "deploy/web", "--timeout=30s")
    assert (await kubectl("rollout", "history", "-n", "shop", "deploy/web")).split()[-2] == "2"
    await kubectl("scale", "-n", "shop", "deploy/web", "--replicas=3")
    await kubectl("rollout", "status", "-n", "shop", "deploy/web", "--timeout=30s")
    (slice_,) = running.server.cluster.store.objects(("discovery.k8s.io", "endpointslices"), "shop")
    assert [e["conditions"]["ready"] for e in slice_["endpoints"]] == [True] * 3
    assert "ScalingReplicaSet" in await kubectl("describe", "-n", "shop", "deploy", "web")
    await kubectl("delete", "namespace", "shop", "--timeout=30s")
    assert running.server.cluster.store.objects(PODS) == []


async def test_a_watch_prints_changes_as_they_come(kubectl, running, spawn):
    process = await spawn("get", "pods", "-w", "--output-watch-events")
    subscribers = running.server.cluster.store._subscribers["", "pods"]
    before = len(subscribers)
    await until(lambda: len(subscribers) > before)
    await kubectl("run", "one", "--image=app:v1")
    await kubectl("delete", "pod", "one")
    text = b""
    with trio.fail_after(30):
        while b"DELETED" not in text:
            text += await process.stdout.receive_some()
    assert b"ADDED" in text
    assert text.startswith(b"EVENT")


async def test_typed_commands_send_protobuf_and_are_understood(kubectl, running, kubectl_minor):
    await kubectl("create", "deployment", "web", "--image=app:v1", "--replicas=0", "--port=80")
    made = running.find(("apps", "deployments"), "web", "default")
    assert made["spec"]["replicas"] == 0
    assert made["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] == 80
    await kubectl("create", "secret", "generic", "s", "--from-literal=k=v")
    assert await kubectl("get", "secret", "s", "-o", "jsonpath={.data.k}") == "dg=="
    if kubectl_minor >= 24:
        assert (await kubectl("create", "token", "default")).count(".") == 2
    assert "yes" in await kubectl("auth", "can-i", "create", "pods")


@pytest.mark.parametrize(
    ("manifest", "text"),
    [
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: Bad_Name}\nspec: {containers: []}\n",
         'metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain'),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: x}\n",
         "cannot unmarshal string into Go struct field PodSpec.spec.containers"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {container: []}\n",
         'unknown field "spec.container"'),
        ("apiVersion: v2\nkind: Pod\nmetadata: {name: p}\n",
         'no matches for kind "Pod" in version "v2"'),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: nowhere}\n"
         "spec: {containers: [{name: a, image: b}]}\n", 'namespaces "nowhere" not found'),
        ("kind: [\n", "error converting YAML to JSON"),
    ],
)  # fmt: skip
async def test_a_malformed_manifest_gets_one_clear_message(kubectl, manifest, text):
    said = await kubectl("apply", "-f", "-", stdin=manifest, fails=True)
    assert text in said
    assert "Traceback" not in said


async def test_other_failures_say_what_is_wrong(kubectl):
    assert 'pods "nope" not found' in await kubectl("get", "pod", "nope", fails=True)
    assert "doesn't have a resource type" in await kubectl("get", "gadgets", fails=True)
    said = await kubectl("get", "pods", "--field-selector=spec.image=x", fails=True)
    assert "field label not supported: spec.image" in said
    await kubectl("run", "one", "--image=app:v1")
    said = await kubectl("run", "one", "--image=app:v1", fails=True)
    assert 'pods "one" already exists' in said


async def test_dry_runs_logs_and_explanations(kubectl, running, kubectl_minor):
    await kubectl("run", "one", "--image=app:v1")
    await kubectl("delete", "pod", "one", "--dry-run=server")
    assert running.find(PODS, "one", "default")
    assert await kubectl("logs", "one") == "one\ntwo\n"
    if kubectl_minor >= 27:  # older ones read the second form of the schemas, which has none
        assert "replicas\t<integer>" in await kubectl("explain", "deployment.spec")


async def test_a_custom_resource_round_trip(kubectl, tmp_path):
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["color"],
                "properties": {"color": {"type": "string", "enum": ["red", "green"]}},
            }
        },
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "additionalPrinterColumns": [
            {"name": "Color", "type": "string", "jsonPath": ".spec.color"}
        ],
    }
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [version],
        },
    }
    await kubectl("apply", "-f", "-", stdin=json.dumps(definition))
    wait = "--for=condition=established"
    await kubectl("wait", wait, "crd/widgets.example.com", "--timeout=30s")
    manifest = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: a}\nspec: {color: %s}\n"
    await kubectl("apply", "-f", "-", stdin=manifest % "red")
    assert (await kubectl("get", "widgets")).split() == ["NAME", "COLOR", "a", "red"]
    said = await kubectl("apply", "-f", "-", stdin=manifest % "blue", fails=True)
    assert 'spec.color: Unsupported value: "blue": supported values: "red", "green"' in said
    await kubectl("delete", "crd", "widgets.example.com")
    await kubectl("get", "widgets", fails=True)
