"""Installing, upgrading, removing, tags, migrating: the program against a real API server.

It has no controllers and no kubelets: ``roll_out`` writes the statuses that they would write.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import yaml

from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.resources import (
    CONFIG_MAPS,
    DAEMON_SETS,
    DEPLOYMENTS,
    LEASES,
    NAMESPACES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)
from tests.kube.servers import RBAC_GROUP, RealServer, add_node, apply, missing

pytestmark = pytest.mark.kube

AMBIENTCTL = Path(sys.executable).parent / "ambientctl"
SYSTEM = "istio-system"
CLUSTER_ROLES = Resource(RBAC_GROUP, "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(
    RBAC_GROUP, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
DEADLINE_S = 90
"""Only a failure waits this long."""
PASSING = frozenset({"events", "leases", "componentstatuses", "apiservices"})
"""Resources that come and go by themselves."""


class Program:
    """``ambientctl`` and its administrator."""

    def __init__(self, server, kube):
        self.server, self.kube = server, kube
        self.kubeconfig = server.kubeconfig("admin", server.admin_token)

    async def __call__(self, *words, kubeconfig=None, stdin=b""):
        command = [AMBIENTCTL, *words, "--kubeconfig", kubeconfig or self.kubeconfig]
        with trio.fail_after(DEADLINE_S):
            done = await trio.run_process(
                command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
            )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    async def ok(self, *words, **more):
        done = await self(*words, **more)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    async def everything(self):
        """All objects of the cluster, by resource, namespace and name."""
        found = set()
        for group in await self._groups():
            listed = await self.kube.request("GET", f"/{group}")
            for one in listed["resources"]:
                if "/" in one["name"] or "list" not in one["verbs"] or one["name"] in PASSING:
                    continue
                items = await self.kube.request("GET", f"/{group}/{one['name']}")
                for item in items["items"]:
                    metadata = item["metadata"]
                    found.add((one["name"], metadata.get("namespace", ""), metadata["name"]))
        return found

    async def _groups(self):
        answer = await self.kube.request("GET", "/apis")
        versions = [one["preferredVersion"]["groupVersion"] for one in answer["groups"]]
        return ["api/v1", *(f"apis/{one}" for one in versions)]


async def roll_out(kube, *, namespace=SYSTEM):
    """What controllers and kubelets report of workloads that run."""
    for resource, counts in (
        (DEPLOYMENTS, ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")),
        (
            DAEMON_SETS,
            ("desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled",
             "numberReady", "numberAvailable"),
        ),
    ):  # fmt: skip
        for one in await kube.list(resource, namespace):
            number = one["spec"].get("replicas") or 1
            status = dict.fromkeys(counts, number)
            status["observedGeneration"] = one["metadata"]["generation"]
            if resource is DAEMON_SETS:
                status["numberMisscheduled"] = 0
            if status.items() <= (one.get("status") or {}).items():
                continue
            with_status = {"status": status}
            name = one["metadata"]["name"]
            await kube.patch(resource, name, with_status, namespace=namespace, subresource="status")


@asynccontextmanager
async def rolling_out(kube):
    """As long as the block lasts."""

    async def again():
        while True:
            with suppress(KubeError):  # deleted in the midst
                await roll_out(kube)
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(again)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    """A server of our own: installing and removing would be in the way of other scenarios."""
    if reason := missing():
        pytest.skip(reason)
    server = RealServer(tmp_path_factory.mktemp("kube"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def ctl(own_server, tmp_path):
    """A cluster with a node, in which nothing is installed before the test and after it."""
    own_server.folder = tmp_path
    async with own_server.admin() as kube:
        await add_node(kube, "n1")
        program = Program(own_server, kube)
        await program("uninstall", "-y", "--no-wait")
        yield program
        await program("uninstall", "-y", "--no-wait")


async def names(kube, resource, namespace=None):
    return {one["metadata"]["name"] for one in await kube.list(resource, namespace)}


async def test_install_again_and_uninstall_leaves_nothing(ctl):
    before = await ctl.everything()
    async with rolling_out(ctl.kube):
        out = await ctl.ok("install", "-y", "--set", "components.networkPolicies=true")
    assert "✔ control plane is ready" in out
    assert "✔ the mesh is installed" in out
    assert {"ztunnel", "istio-cni-node"} <= await names(ctl.kube, DAEMON_SETS, SYSTEM)
    installed = await ctl.everything()
    assert len(installed - before) > 20

    async with rolling_out(ctl.kube):
        await ctl.ok("install", "-y", "--set", "components.networkPolicies=true")
    assert await ctl.everything() == installed

    listed = await ctl.ok("uninstall", "--dry-run")
    assert f"DaemonSet {SYSTEM}/ztunnel is deleted" in listed
    assert await ctl.everything() == installed
    # What a control plane that had run would have made.
    labels = {"istio.io/config": "true"}
    roots = {"name": "istio-ca-root-cert", "namespace": "default", "labels": labels}
    await apply(ctl.kube, CONFIG_MAPS, {"metadata": roots})
    await apply(ctl.kube, SECRETS, {"metadata": {"name": "istio-ca-secret", "namespace": SYSTEM}})
    await apply(ctl.kube, LEASES, {"metadata": {"name": "istiod-lite-writer", "namespace": SYSTEM}})
    out = await ctl.ok("uninstall", "-y")
    assert "✔ nothing is left" in out
    left = await ctl.everything() - before
    # Definitions stay, with the policies that are written by them, and the authority's key.
    kept = {"customresourcedefinitions", "namespaces", "secrets"}
    assert {kind for kind, _, _ in left} <= kept, left
    assert ("secrets", SYSTEM, "istio-ca-secret") in left
    assert await ctl.kube.list(LEASES, SYSTEM) == []
    await ctl.ok("install", "-y", "--no-wait")
    await ctl.ok("uninstall", "-y", "--purge")
    left = await ctl.everything() - before
    assert {kind for kind, _, _ in left} <= {"namespaces"}, left


async def test_a_dry_run_changes_nothing_and_is_what_the_server_takes(ctl):
    before = await ctl.everything()
    printed = await ctl.ok("install", "--dry-run", "--profile", "production")
    assert await ctl.everything() == before
    kinds = {one["kind"] for one in yaml.safe_load_all(printed)}
    assert {"Deployment", "DaemonSet", "NetworkPolicy", "PodDisruptionBudget"} <= kinds


async def test_an_interrupted_installation_goes_on(ctl):
    command = [AMBIENTCTL, "install", "-y", "--kubeconfig", ctl.kubeconfig]
    with trio.fail_after(DEADLINE_S):
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        while "ztunnel" not in await names(ctl.kube, DAEMON_SETS, SYSTEM):
            await trio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        text = b"".join([bytes(chunk) async for chunk in process.stdout]).decode()
        assert await process.wait() == 130, text
    assert "Traceback" not in text
    async with rolling_out(ctl.kube):
        assert "✔ the mesh is installed" in await ctl.ok("install", "-y")


async def test_a_half_installed_mesh_is_named_and_mended(ctl):
    await ctl.ok("install", "-y", "--no-wait")
    await roll_out(ctl.kube)
    await ctl.kube.delete(DAEMON_SETS, "istio-cni-node", SYSTEM)
    done = await ctl("check", "--no-probe")
    assert done.returncode == 1
    assert f"✘ daemonset: there is no DaemonSet {SYSTEM}/istio-cni-node" in done.stdout
    assert "remedy: ambientctl install" in done.stdout
    async with rolling_out(ctl.kube):
        await ctl.ok("install", "-y")
    assert "istio-cni-node" in await names(ctl.kube, DAEMON_SETS, SYSTEM)


async def test_what_never_becomes_ready_is_named(ctl):
    done = await ctl("install", "-y", "--readiness-timeout", "1")
    assert done.returncode == 1
    assert "error: not ready after 1 s: control plane: not looked at yet" in done.stderr
    assert "hint: kubectl -n istio-system get pods; ambientctl check" in done.stderr


async def test_upgrade_from_an_older_version(ctl):
    older = ("--set", "image=ambient-mesh:0.0.9", "--set", "components.networkPolicies=true")
    lost = await ctl("upgrade", "-y")
    assert lost.returncode == 1
    assert "there is no installation of revision default to upgrade" in lost.stderr
    await ctl.ok("install", "-y", "--no-wait", *older)
    assert await names(ctl.kube, NETWORK_POLICIES, SYSTEM)
    async with rolling_out(ctl.kube):
        out = await ctl.ok("upgrade", "-y")
    assert "version 0.0.9 becomes 0.1.0" in out
    assert await names(ctl.kube, NETWORK_POLICIES, SYSTEM), "values are kept"
    async with rolling_out(ctl.kube):
        out = await ctl.ok("upgrade", "-y", "--reset-values")
    assert "objects of the earlier version removed" in out
    assert await names(ctl.kube, NETWORK_POLICIES, SYSTEM) == set()
    tunnel = await ctl.kube.get(DAEMON_SETS, "ztunnel", SYSTEM)
    assert tunnel["spec"]["template"]["spec"]["containers"][0]["image"] == "ambient-mesh:0.1.0"


async def test_helm_installs_upgrades_and_removes(ctl):
    """Definitions stay with the policies that are written by them, as with `ambientctl`."""
    if shutil.which("helm") is None:
        pytest.skip("helm is missing; `go install helm.sh/helm/v3/cmd/helm@latest` builds one")

    async def helm(verb, *words):
        command = ["helm", verb, "mesh", *words, "-n", SYSTEM, "--kubeconfig", ctl.kubeconfig]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
        return done.stdout.decode()

    async def tunnel():
        found = await ctl.kube.get(DAEMON_SETS, "ztunnel", SYSTEM)
        return found["metadata"]["uid"], found["spec"]["template"]["spec"]["containers"][0]["image"]

    before = await ctl.everything()
    chart = "manifests/charts/ambient-mesh"
    older = "registry/ambient-mesh@sha256:" + 64 * "0"
    more = ("--set", "components.networkPolicies=true,global.platform=gke")
    said = await helm("install", chart, "--create-namespace", "--set", f"image={older}", *more)
    assert "kubectl label namespace NAME istio.io/dataplane-mode=ambient" in said
    uid, image = await tunnel()
    assert image == older
    assert await names(ctl.kube, NETWORK_POLICIES, SYSTEM)
    await helm("upgrade", chart, "--reset-values")
    assert await tunnel() == (uid, "ambient-mesh:0.1.0")
    assert await names(ctl.kube, NETWORK_POLICIES, SYSTEM) == set()
    await helm("rollback", "1")
    assert await tunnel() == (uid, older)
    await helm("uninstall")
    left = {kind for kind, _, _ in await ctl.everything() - before}
    assert left <= {"customresourcedefinitions", "namespaces"}, left


async def test_a_canary_revision_beside_the_mesh_with_a_tag(ctl):
    await ctl.ok("install", "-y", "--no-wait")
    await ctl.ok("install", "-y", "--no-wait", "--revision", "canary")
    assert {"istiod", "istiod-canary"} <= await names(ctl.kube, DEPLOYMENTS, SYSTEM)
    nowhere = await ctl("tag", "set", "prod", "--revision", "lost")
    assert nowhere.returncode == 1
    assert "there is no control plane of revision lost" in nowhere.stderr
    await ctl.ok("tag", "set", "prod", "--revision", "default")
    refused = await ctl("tag", "set", "prod", "--revision", "canary")
    assert "repeat with --overwrite" in refused.stderr
    await ctl.ok("tag", "set", "prod", "--revision", "canary", "--overwrite")
    labels = {"istio.io/rev": "prod"}
    await apply(ctl.kube, NAMESPACES, {"metadata": {"name": "tagged", "labels": labels}})
    assert ["prod", "canary", "tagged"] in [
        line.split() for line in (await ctl.ok("tag", "list")).splitlines()
    ]
    in_use = await ctl("tag", "remove", "prod")
    assert in_use.returncode == 2
    assert "Namespaces tagged would have no control plane" in in_use.stderr
    await ctl.ok("tag", "remove", "prod", "-y")
    assert "istiod-revision-tag-prod" not in await names(ctl.kube, SERVICES, SYSTEM)
    await ctl.ok("uninstall", "-y", "--revision", "canary")
    assert "istiod-canary" not in await names(ctl.kube, DEPLOYMENTS, SYSTEM)
    assert "istiod" in await names(ctl.kube, DEPLOYMENTS, SYSTEM)


async def account(ctl, name, rules):
    """A kubeconfig of somebody with these rights."""
    await apply(ctl.kube, SERVICE_ACCOUNTS, {"metadata": {"name": name, "namespace": "default"}})
    role = {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
    await apply(ctl.kube, CLUSTER_ROLES, {"metadata": {"name": name}, "rules": rules})
    binding = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
    await apply(ctl.kube, CLUSTER_ROLE_BINDINGS, binding)
    return ctl.server.kubeconfig(name, await ctl.server.token(ctl.kube, "default", name))


READ_ALL = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]


async def test_without_permission_nothing_is_changed_and_the_right_is_named(ctl):
    reader = await account(ctl, "reader", READ_ALL)
    before = await ctl.everything()
    done = await ctl("install", "-y", "--no-wait", kubeconfig=reader)
    assert done.returncode == 1
    assert (
        "permissions: may not create clusterrolebindings.rbac.authorization.k8s.io" in done.stderr
    )
    assert "nothing was changed" in done.stderr
    forced = await ctl("install", "-y", "--no-wait", "--force", kubeconfig=reader)
    assert forced.returncode == 1
    (error,) = [line for line in forced.stderr.splitlines() if line.startswith("error:")]
    assert "was refused: " in error
    assert "cannot" in error
    assert await ctl.everything() == before
    await ctl.ok("install", "-y", "--no-wait")
    kept = await ctl("uninstall", "-y", "--no-wait", kubeconfig=reader)
    assert kept.returncode == 1
    assert "was not deleted: " in kept.stderr
    nobody = await account(ctl, "nobody", [])
    blind = await ctl("install", "-y", "--no-wait", kubeconfig=nobody)
    assert blind.returncode == 1
    assert blind.stderr.startswith("error: ")


async def test_nobody_gives_rights_that_he_has_not_and_nothing_is_half_done(ctl):
    writes = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["create", "patch"]}
    installer = await account(ctl, "installer", [*READ_ALL, writes])
    before = await ctl.everything()
    done = await ctl("install", "-y", "--no-wait", kubeconfig=installer)
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert "attempting to grant RBAC permissions not currently held; nothing was changed" in error
    assert "or the verb escalate" in hint
    assert await ctl.everything() == before


async def test_a_namespace_that_is_being_deleted_takes_nothing(ctl):
    """It stays, as there is no controller; the condition is what one would write."""
    await apply(ctl.kube, NAMESPACES, {"metadata": {"name": "ending"}})
    await ctl.kube.delete(NAMESPACES, "ending")
    condition = {
        "type": "NamespaceFinalizersRemaining",
        "status": "True",
        "reason": "SomeRemain",
        "message": "x/y in 1 resource",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {"status": {"conditions": [condition]}}
    await ctl.kube.patch(NAMESPACES, "ending", status, subresource="status")
    before = await ctl.everything()
    done = await ctl("install", "-y", "--no-wait", "--istioNamespace", "ending")
    assert done.returncode == 1
    assert "error: namespace ending is being deleted (x/y in 1 resource); nothing" in done.stderr
    assert "hint: wait until it is gone; kubectl get namespace ending -o yaml" in done.stderr
    assert await ctl.everything() == before
    ended = await ctl.kube.get(NAMESPACES, "ending")
    ended["spec"]["finalizers"] = []
    await ctl.kube.request("PUT", "/api/v1/namespaces/ending/finalize", ended)


async def test_a_server_that_goes_away_in_the_midst(ctl):
    """Killed and started again, the same command goes on."""
    ctl.server.kill("kube-apiserver")
    try:
        done = await ctl("install", "-y")
        assert done.returncode == 1
        assert "does not answer" in done.stderr
        assert "hint: " in done.stderr
    finally:
        await trio.to_thread.run_sync(ctl.server.start_apiserver)
    await ctl.ok("install", "-y", "--no-wait")


async def test_what_another_cluster_reads_with_the_secret(ctl):
    await ctl.ok("install", "-y", "--no-wait")
    # Controllers write it into every namespace; there are none here.
    root = {
        "metadata": {"name": "kube-root-ca.crt", "namespace": SYSTEM},
        "data": {"ca.crt": ctl.server.ca_pem},
    }
    await apply(ctl.kube, CONFIG_MAPS, root)
    done = await ctl("create-remote-secret", "--name", "east")
    assert done.returncode == 0, done.stderr
    assert "leads nowhere from another cluster" in done.stderr
    assert "the token ends at " in done.stderr
    secret = yaml.safe_load(done.stdout)
    assert secret["metadata"]["labels"] == {"istio/multiCluster": "true"}
    made = await apply(ctl.kube, SECRETS, secret)
    assert set(made["data"]) == {"east"}
    path = ctl.server.folder / "east.yaml"
    path.write_text(secret["stringData"]["east"])

    async def reads(*words):
        command = ["kubectl", "--kubeconfig", str(path), "auth", "can-i", *words]
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False
        )
        return done.stdout.decode().strip()

    with trio.fail_after(DEADLINE_S):  # the authorizer follows roles with a delay
        while await reads("watch", "pods", "-A") != "yes":
            await trio.sleep(0.1)
    assert await reads("list", "endpointslices.discovery.k8s.io", "-A") == "yes"
    assert await reads("get", "secrets", "-A") == "no"
    assert await reads("create", "pods", "-A") == "no"
    try:
        await ctl.kube.delete(SECRETS, "istio-remote-secret-east", SYSTEM)
    except NotFound:
        pytest.fail("the Secret was not applied")


SIDECARS = {"istio-injection": "enabled"}


async def test_migrate_a_namespace_and_back(ctl):
    await ctl.ok("install", "-y", "--no-wait")
    await apply(ctl.kube, NAMESPACES, {"metadata": {"name": "books", "labels": SIDECARS}})
    assert "books" in await ctl.ok("migrate", "plan")
    await ctl.ok("migrate", "namespace", "books", "-y")
    labels = (await ctl.kube.get(NAMESPACES, "books"))["metadata"]["labels"]
    assert labels["istio.io/dataplane-mode"] == "ambient"
    assert "istio-injection" not in labels
    await ctl.ok("migrate", "rollback", "books", "-y")
    labels = (await ctl.kube.get(NAMESPACES, "books"))["metadata"]["labels"]
    assert labels["istio-injection"] == "enabled"
    assert "istio.io/dataplane-mode" not in labels
