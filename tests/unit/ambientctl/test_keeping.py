"""Tags of revisions, secrets for other clusters, reports without secrets."""

from __future__ import annotations

import base64
import tarfile

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ambientctl.redaction import GONE, redact_object, redact_text
from tests.unit.ambientctl.dumps import DUMP
from tests.unit.ambientctl.meshes import build, istiod

SYSTEM = """
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: v1
kind: Service
metadata: {name: istiod-canary, namespace: istio-system}
spec: {ports: [{name: a, port: 1}]}
---
apiVersion: v1
kind: Service
metadata: {name: istiod, namespace: istio-system}
spec: {ports: [{name: a, port: 1}]}
"""


def test_tags(ambientctl):
    ambientctl.apply(SYSTEM)
    assert ambientctl.ok("tag", "list") == "No revision tags found.\n"
    assert "revision canary; namespaces: -" in ambientctl.ok("tag", "set", "prod", "-r", "canary")
    refused = ambientctl("tag", "set", "prod", "-r", "default")
    assert refused.status == 1
    assert "tag prod stands for revision canary; nothing was changed" in refused.err
    ambientctl.ok("tag", "set", "prod", "-r", "default", "--overwrite")
    for bad in ("Bad Name", "x-", "x" * 44):
        unusable = ambientctl("tag", "set", bad, "-r", "default")
        assert unusable.status == 2
        assert "cannot be a tag" in unusable.err
    missing = ambientctl("tag", "set", "x", "-r", "lost")
    assert "ambientctl install --revision lost" in missing.err
    ambientctl.apply(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/rev: prod}}"
    )
    (one,) = ambientctl.json("tag", "list")
    assert one == {"tag": "prod", "revision": "default", "namespaces": ["shop"]}
    unanswered = ambientctl("tag", "remove", "prod")
    assert unanswered.status == 2
    assert "Namespaces shop would have no control plane" in unanswered.err
    assert ambientctl.ok("tag", "remove", "prod", "-y") == "tag prod removed\n"
    assert ambientctl("tag", "remove", "prod").status == 1
    made = yaml.safe_load(ambientctl.ok("tag", "generate", "blue", "-r", "canary"))
    assert made["metadata"]["name"] == "istiod-revision-tag-blue"
    assert made["spec"]["selector"]["istio.io/rev"] == "canary"


def test_a_secret_for_another_cluster_opens_this_one(ambientctl, tmp_path):
    ambientctl.apply(SYSTEM)
    root = ambientctl.server.ca_pem
    name = "{name: kube-root-ca.crt, namespace: istio-system}"
    text = yaml.safe_dump({"ca.crt": root}).replace("\n", "\n  ")
    ambientctl.apply(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {name}\ndata:\n  {text}")
    done = ambientctl("create-remote-secret", "--name", "east")
    assert done.status == 0, done.err
    assert "leads nowhere from another cluster" in done.err
    assert "the token ends at 20" in done.err
    secret = yaml.safe_load(done.out)
    assert secret["metadata"]["labels"] == {"istio/multiCluster": "true"}
    path = tmp_path / "east"
    path.write_text(secret["stringData"]["east"])
    # The token may read what a control plane reads, and nothing else.
    assert ambientctl("waypoint", "list", "-A", "-c", str(path)).status == 0
    assert ambientctl("waypoint", "apply", "-n", "default", "-c", str(path)).status == 1
    lost = ambientctl(
        "create-remote-secret", "--name", "x", "--no-create-service-account",
        "--service-account", "lost",
    )  # fmt: skip
    assert "there is no service account istio-system/lost" in lost.err


KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIabc\n-----END EC PRIVATE KEY-----"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"before {KEY} after", "before "),
        (f"token={TOKEN}", "token="),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer "),
        ("postgres://shop:hunter2@db/x", "postgres://shop:"),
        ("DB_PASSWORD=hunter2 x", "DB_PASSWORD="),
        ('{"api_key": "hunter2secret"}', '{"api_key": "'),
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQEEIabc", ""),
    ],
)
def test_what_is_secret_goes_and_the_rest_stays(text, kept):
    cleaned = redact_text(text)
    assert GONE in cleaned
    assert cleaned.startswith(kept)
    for secret in ("MHcCAQEEI", "hunter2", "c2lnbmF0dXJl", "abcdefgh1234"):
        assert secret not in cleaned


@given(st.text())
def test_redaction_never_fails_and_a_second_time_changes_nothing_that_is_secret(text):
    redact_text(redact_text(text))


def test_objects_keep_their_shape():
    pod = {
        "kind": "Pod",
        "spec": {
            "containers": [{"env": [{"name": "DB_PASSWORD", "value": "hunter2"}]}],
            "volumes": [{"secret": {"secretName": "tls"}}],
            "imagePullSecrets": [{"name": "registry"}],
        },
    }
    cleaned = redact_object(pod)
    assert cleaned["spec"]["containers"][0]["env"][0] == {"name": "DB_PASSWORD", "value": GONE}
    assert cleaned["spec"]["volumes"] == pod["spec"]["volumes"]
    assert cleaned["spec"]["imagePullSecrets"] == pod["spec"]["imagePullSecrets"]
    annotation = "kubectl.kubernetes.io/last-applied-configuration"
    secret = {
        "kind": "Secret",
        "metadata": {"name": "s", "annotations": {annotation: "hunter2"}},
        "data": {"key": base64.b64encode(b"hunter2").decode()},
        "stringData": {"other": "hunter2"},
    }
    cleaned = str(redact_object(secret))
    assert "hunter2" not in cleaned
    assert "aHVudGVy" not in cleaned
    assert "12 characters" in cleaned


def test_a_report_has_states_and_findings_and_no_secrets(ambientctl, tmp_path):
    build(ambientctl)
    istiod(ambientctl)
    ambientctl.program("istio-system/ztunnel-1", 15000, {"/config_dump": DUMP, "/connections": []})
    key = base64.b64encode(KEY.encode()).decode()
    ambientctl.apply(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: cacerts, namespace: istio-system}\n"
        f"data: {{ca-key.pem: {key}}}"
    )
    names = ambientctl.ok("bug-report", "--dry-run")
    assert "istio-system/ztunnel-1/config_dump.json" in names
    path = tmp_path / "report.tar.gz"
    out = ambientctl.ok("bug-report", "-f", str(path))
    assert "could not be had" in out
    assert path.stat().st_mode & 0o077 == 0
    with tarfile.open(path) as archive:
        files = {one.name: archive.extractfile(one).read().decode() for one in archive.getmembers()}
    assert (
        "spiffe://cluster.local/ns/shop/sa/reviews"
        in files["report/istio-system/ztunnel-1/config_dump.json"]
    )
    assert "ztunnel-2" in files["report/failures.txt"]
    assert "report/analyze.json" in files
    assert "cacerts" in files["report/objects/Secret.yaml"]
    whole = "".join(files.values())
    assert key not in whole
    assert "MHcCAQEEI" not in whole
    assert ambientctl("bug-report", "-f", "/nowhere/x.tar.gz").status == 2
