"""One clear line, a remedy and the documented status, whatever is wrong; never a traceback."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.unit.ambientctl.conftest import run_command, serving
from tests.unit.ambientctl.meshes import build, istiod

CLUSTER_COMMANDS = (
    ("analyze",), ("authz", "check", "web.shop"), ("bug-report",), ("check",), ("check", "--pre"),
    ("create-remote-secret", "--name", "x"), ("dashboard", "--no-browser"),
    ("describe", "pod", "web.shop"), ("describe", "service", "web.shop"),
    ("describe", "namespace", "shop"), ("graph",), ("install", "-y"), ("migrate", "plan"),
    ("migrate", "namespace", "shop", "-y"), ("migrate", "rollback", "shop", "-y"),
    ("proxy-config", "route", "waypoint.shop"), ("proxy-status",), ("tag", "list"),
    ("tag", "set", "prod", "--revision", "default"), ("tag", "remove", "prod"),
    ("tap", "--no-follow"), ("top",), ("uninstall", "-y"), ("upgrade", "-y"),
    ("waypoint", "apply"), ("waypoint", "list"), ("waypoint", "status"),
    ("waypoint", "delete", "--all"), ("why", "shop/web", "api.shop"), ("zc", "workload"),
    ("zc", "all"),
)  # fmt: skip
"""Every command that speaks to a cluster."""


def kubeconfig(folder, server="https://127.0.0.1:1", token="t"):
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [
            {"name": "x", "cluster": {"server": server, "insecure-skip-tls-verify": True}}
        ],
        "users": [{"name": "x", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    path = folder / "kubeconfig-of-mine"
    path.write_text(json.dumps(config))
    return str(path)


def clear(done, status):
    """The error, alone on its line, and its hint."""
    assert done.status == status, done
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.err
    assert len(errors[0]) < 300, errors
    hints = [line for line in done.err.splitlines() if line.startswith("hint: ")]
    assert hints, done.err
    return errors[0]


def test_a_server_of_somebody_else(tmp_path):
    with serving(tmp_path, crds=False, controllers=False) as bare:
        config = json.loads(bare.kubeconfig.read_text())
        del config["clusters"][0]["cluster"]["certificate-authority-data"]
        done = run_command(["check", "-c", bare.file("untrusted", json.dumps(config))], "", {})
    assert "is not trusted: " in clear(done, 1)
    assert "certificate-authority right in" in done.err


def test_a_plugin_that_is_missing(tmp_path):
    path = kubeconfig(tmp_path)
    config = json.loads((tmp_path / "kubeconfig-of-mine").read_text())
    version = "client.authentication.k8s.io/v1"
    plugin = {"apiVersion": version, "command": "/nowhere/plugin", "interactiveMode": "Never"}
    config["users"][0]["user"] = {"exec": plugin}
    (tmp_path / "kubeconfig-of-mine").write_text(json.dumps(config))
    done = run_command(["check", "-c", path], "", {})
    assert "No such file or directory: '/nowhere/plugin'" in clear(done, 2)
    assert "ERROR" not in done.err


@pytest.mark.parametrize("words", CLUSTER_COMMANDS, ids=" ".join)
def test_an_unreachable_cluster(words, tmp_path):
    done = run_command([*words, "-c", kubeconfig(tmp_path)], "", {})
    said = clear(done, 1)
    assert "the API server https://127.0.0.1:1 does not answer" in said


@pytest.mark.parametrize("words", CLUSTER_COMMANDS, ids=" ".join)
def test_a_context_that_there_is_not(words, tmp_path):
    words = [*words, "-c", kubeconfig(tmp_path), "--context", "lost"]
    assert "lost" in clear(run_command(words, "", {}), 2)


@pytest.mark.parametrize("words", CLUSTER_COMMANDS, ids=" ".join)
def test_a_kubeconfig_that_there_is_not(words, tmp_path):
    done = run_command([*words, "-c", str(tmp_path / "nowhere")], "", {})
    assert "nowhere" in clear(done, 2)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """A healthy mesh, and somebody who may do nothing in it."""
    with serving(tmp_path_factory.mktemp("mesh"), controllers=False) as command_line:
        build(command_line)
        istiod(command_line)
        yield command_line


@pytest.mark.parametrize("words", CLUSTER_COMMANDS, ids=" ".join)
def test_somebody_without_permission(words, refusing, tmp_path):
    config = json.loads(refusing.kubeconfig.read_text())
    path = kubeconfig(tmp_path, config["clusters"][0]["cluster"]["server"], "nobody")
    said = clear(run_command([*words, "-c", path], "", {}), 1)
    assert "nauthorized" in said or "forbidden" in said or "401" in said, said


def test_a_right_that_is_missing_is_not_taken_for_nothing_being_there(refusing, tmp_path):
    """Whoever may read all but pods is told so, and not that there are none."""
    kube = refusing.kubeconfig
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "no-pods"},
        "rules": [
            {"apiGroups": [""], "resources": ["namespaces", "services"], "verbs": ["list"]},
            {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["*"], "verbs": ["*"]},
        ],
    }  # fmt: skip
    refusing.apply(json.dumps(role))
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "no-pods"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                    "name": "no-pods"},
        "subjects": [{"kind": "ServiceAccount", "name": "somebody", "namespace": "shop"}],
    }  # fmt: skip
    refusing.apply(json.dumps(binding))
    account = {"name": "somebody", "namespace": "shop"}
    refusing.apply(json.dumps({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}))
    words = ["kubectl", "--kubeconfig", kube, "create", "token", "somebody", "-n", "shop"]
    token = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    config = json.loads(kube.read_text())
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "somebody"
    path.write_text(json.dumps(config))
    done = run_command(["describe", "pod", "reviews-1.shop", "-c", str(path)], "", {})
    said = clear(done, 1)
    assert "Pods may not be read: pods: " in said
    assert "hint: kubectl auth can-i list pods -A" in done.err


def test_a_check_by_somebody_who_may_not_look_does_not_say_that_nothing_is_there(refusing):
    done = run_command(["check", "--as", "nobody", "-c", str(refusing.kubeconfig)], "", {})
    assert done.status == 1
    assert "whether a mesh is in istio-system cannot be seen" in done.out
    assert "there is no mesh" not in done.out
    assert "the cluster has none" not in done.out
    assert done.out.count("may not be read: ") == 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize("verb", ["namespace", "rollback"])
def test_a_namespace_that_there_is_not_is_named(refusing, verb):
    words = ["migrate", verb, "nowhere", "-y", "-c", str(refusing.kubeconfig)]
    assert "error: there is no namespace nowhere" in clear(run_command(words, "", {}), 1)


def test_an_empty_kubeconfig_has_no_context(tmp_path):
    done = run_command(["top", "-c", "/dev/null"], "", {})
    assert "no context is chosen" in clear(done, 2)


def test_a_context_that_speaks_for_somebody_has_the_rights_of_that_one(refusing, tmp_path):
    """As with kubectl; otherwise a command would have more rights than its caller wants."""

    def calling(**user):
        config = json.loads(refusing.kubeconfig.read_text())
        config["users"][0]["user"] |= user
        path = tmp_path / "config"
        path.write_text(json.dumps(config))
        return run_command(["describe", "pod", "reviews-1.shop", "-c", str(path)], "", {})

    assert calling().status == 0
    assert "forbidden" in clear(calling(**{"as": "nobody"}), 1)
    admin = {"as": "somebody", "as-groups": ["system:masters"]}
    assert calling(**admin).status == 0
    several = {"as": "x", "as-groups": ["a", "system:masters"], "as-user-extra": {"why": ["test"]}}
    assert calling(**several).status == 0


def test_a_missing_right_is_named_with_verb_and_resource(refusing):
    for words, rule in (
        (
            ("waypoint", "list", "-n", "shop"),
            "can-i list gateways.gateway.networking.k8s.io -n shop",
        ),
        (("ps",), "kubectl auth can-i list pods -n istio-system"),
        (("tag", "list"), "kubectl auth can-i list namespaces -A"),
    ):
        done = run_command([*words, "--as", "nobody", "-c", str(refusing.kubeconfig)], "", {})
        assert rule in done.err, done
        assert "Traceback" not in done.err


@pytest.mark.parametrize("words", [("waypoint", "list"), ("zc", "workload", "web")], ids=" ".join)
def test_a_namespace_that_is_misspelt(refusing, words):
    done = run_command([*words, "-n", "shp", "-c", str(refusing.kubeconfig)], "", {})
    said = clear(done, 1)
    assert "there is no namespace shp" in said
    assert "hint: did you mean shop?" in done.err
