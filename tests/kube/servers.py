"""Two API servers with one face: the embedded one, and a real kube-apiserver with etcd."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
from contextlib import asynccontextmanager
from glob import glob
from pathlib import Path

import httpx
import trio
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ambient.kube.core.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    NAMESPACES,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
    Resource,
)
from ambient.kube.io.client import KubeClient
from ambientctl.local.apiserver.server import ApiServer
from ambientctl.local.apiserver.settings import Settings
from ambientctl.local.controllers.run import run_controllers

VERSION = "1.34.4"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ambient-mesh"
BINARY = CACHE / f"kube-apiserver-{VERSION}"
SERVICE_RANGE = "10.96.0.0/16"
DEADLINE_S = 60
RBAC_GROUP = "rbac.authorization.k8s.io"
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)


def missing() -> str:
    """What a real API server needs and this machine lacks; empty if nothing."""
    if not BINARY.exists():
        return "make kube-apiserver builds one (needs Go)"
    return "" if shutil.which("etcd") else "apt-get install etcd-server"


class Cluster:
    """A server that answers, seen by its administrator."""

    def __init__(self, url: str, ca_pem: str, token: str, folder: Path) -> None:
        self.url = url
        self.ca_pem = ca_pem
        self.admin_token = token
        self.folder = folder

    def kubeconfig(self, name: str, token: str) -> str:
        """A kubeconfig for whoever has the token."""
        (self.folder / f"{name}.crt").write_text(self.ca_pem)
        cluster = {"server": self.url, "certificate-authority": str(self.folder / f"{name}.crt")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(config))
        return str(path)

    @asynccontextmanager
    async def admin(self):
        async with KubeClient.connect(self.kubeconfig("admin", self.admin_token)) as kube:
            yield kube

    async def token(self, kube, namespace, account, *, audience="", pod=None) -> str:
        """A token as kubelets get it for a pod."""
        spec = {"audiences": [audience] if audience else [], "expirationSeconds": 3600}
        if pod is not None:
            metadata = pod["metadata"]
            spec["boundObjectRef"] = {
                "apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"],
            }  # fmt: skip
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": account, "namespace": namespace},
            "spec": spec,
        }
        answer = await kube.create(SERVICE_ACCOUNTS, body, "token")
        return answer["status"]["token"]

    async def prepare(self, kube) -> None:
        """CRDs, roles and a namespace for applications, from the manifests as they are."""
        for path in sorted(glob("manifests/crds/*.yaml")):
            for document in documents(path):
                await apply(kube, CUSTOM_RESOURCE_DEFINITIONS, document)
        for name in ("istio-system", "shop"):
            await apply(kube, NAMESPACES, {"metadata": {"name": name}})
        for document in documents("manifests/base/rbac.yaml"):
            await apply(kube, _resource_of(document), document)
        await self.admits(kube, "istiod")
        await self.admits(kube, "istio-cni")
        with trio.fail_after(DEADLINE_S):
            while not await self._established(kube):
                await trio.sleep(0.1)

    async def admits(self, kube, account: str) -> None:
        """Wait until the roles are known: the authorizer follows them with a delay."""
        review = {
            "metadata": {},
            "spec": {
                "user": f"system:serviceaccount:istio-system:{account}",
                "resourceAttributes": {"verb": "watch", "resource": "pods"},
            },
        }
        with trio.fail_after(DEADLINE_S):
            while not (await kube.create(ACCESS_REVIEWS, review))["status"]["allowed"]:
                await trio.sleep(0.1)

    async def _established(self, kube) -> bool:
        crds = await kube.list(CUSTOM_RESOURCE_DEFINITIONS)
        return all(
            any(one["type"] == "Established" and one["status"] == "True"
                for one in crd.get("status", {}).get("conditions") or ())
            for crd in crds
        )  # fmt: skip


def documents(path):
    """Of a manifest."""
    return list(yaml.safe_load_all(Path(path).read_text()))


async def apply(kube, res, obj):
    metadata = obj["metadata"]
    options = {"namespace": metadata.get("namespace"), "field_manager": "test", "force": True}
    return await kube.patch(res, metadata["name"], obj, kind="apply", **options)


async def run_pod(kube, name, namespace, ip, *, account, node, labels=None, annotations=None):
    """A pod that runs, as far as the API server can tell."""
    await apply(kube, SERVICE_ACCOUNTS, {"metadata": {"name": account, "namespace": namespace}})
    pod = {
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{"name": "main", "image": "none"}],
        },
    }
    if annotations:
        pod["metadata"]["annotations"] = annotations
    made = await kube.create(PODS, pod)
    status = {
        "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
    }
    await kube.patch(PODS, name, status, namespace=namespace, subresource="status")
    return made


async def add_node(kube, name):
    await apply(kube, NODES, {"metadata": {"name": name}})


def _resource_of(document) -> Resource:
    kind = document["kind"]
    if kind == "ServiceAccount":
        return SERVICE_ACCOUNTS
    namespaced = kind in ("Role", "RoleBinding")
    return Resource(RBAC_GROUP, "v1", f"{kind.lower()}s", kind, namespaced=namespaced)


@asynccontextmanager
async def embedded(folder: Path):
    """Our own server and its controllers, over TLS on a loopback port."""
    server = ApiServer(Settings(service_range=SERVICE_RANGE))
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listener])
        nursery.start_soon(run_controllers, server.cluster, server.ca_pem)
        yield Cluster(url, server.ca_pem, server.settings.admin_token, folder)
        nursery.cancel_scope.cancel()


class RealServer(Cluster):
    """etcd and kube-apiserver as processes; the latter may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._etcd_port, self._peer_port, self._port = (_free_port() for _ in range(3))
        super().__init__(f"https://127.0.0.1:{self._port}", "", secrets.token_hex(16), folder)
        self._home = folder
        key = rsa.generate_private_key(65537, 2048)
        (folder / "sa.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        (folder / "tokens.csv").write_text(f'{self.admin_token},admin,admin,"system:masters"\n')
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self._run(
            "etcd",
            "etcd",
            f"--data-dir={self._home}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
            "--unsafe-no-fsync",
        )
        self.start_apiserver()

    def start_apiserver(self) -> None:
        """Blocks until it is ready."""
        folder = self._home
        self._run(
            "kube-apiserver",
            str(BINARY),
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--cert-dir={folder}/certificates",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--token-auth-file={folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-signing-key-file={folder}/sa.key",
            f"--service-account-key-file={folder}/sa.key",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--endpoint-reconciler-type=none",
        )
        certificate = folder / "certificates" / "apiserver.crt"
        deadline = time.monotonic() + DEADLINE_S
        while not self._is_ready(certificate):
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} has ended, see {folder}/{name}.log"
            assert time.monotonic() < deadline, f"not ready, see {folder}/kube-apiserver.log"
            time.sleep(0.2)

    def _is_ready(self, certificate: Path) -> bool:
        if not certificate.exists():
            return False
        self.ca_pem = certificate.read_text()
        try:
            context = ssl.create_default_context(cadata=self.ca_pem)
            headers = {"authorization": f"Bearer {self.admin_token}"}
            with httpx.Client(verify=context, trust_env=False, headers=headers) as http:
                return http.get(f"{self.url}/readyz").status_code == 200
        except (httpx.HTTPError, ssl.SSLError):
            return False

    def kill(self, name: str = "kube-apiserver") -> None:
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in ("kube-apiserver", "etcd"):
            if name in self._processes:
                self.kill(name)

    def _run(self, name: str, *command: str) -> None:
        with (self._home / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]
