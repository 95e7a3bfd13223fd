"""The embedded API server and its controllers, started and joined to the mesh."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Callable, Sequence

import trio
import yaml

from ambient.kube.core.resources import KubeObject
from ambient.net.io.netns import Netns
from ambientctl.local.apiserver.core.pod_streams import PodCommand, PodLog, PodPort
from ambientctl.local.apiserver.io.pod_command import Launched
from ambientctl.local.apiserver.server import ApiServer, no_commands
from ambientctl.local.apiserver.settings import Settings
from ambientctl.local.controllers.run import run_controllers
from ambientctl.local.direct_api import DirectApi
from ambientctl.local.layout import (
    API_PORT,
    API_SERVICE_ADDRESS,
    CLUSTER_DOMAIN,
    FABRIC_ADDRESS,
    SERVICE_RANGE,
    MeshConfig,
)
from ambientctl.local.log_files import log_path
from ambientctl.local.pod_logs import LogWish, read_log
from ambientctl.local.state_folder import StateFolder


class ClusterApi:
    """One API server: over HTTPS for everybody, without it for the supervisor's own parts."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        settings = Settings(
            names=("localhost", "127.0.0.1", FABRIC_ADDRESS),
            service_range=SERVICE_RANGE,
            service_address=API_SERVICE_ADDRESS,
            endpoints=(FABRIC_ADDRESS,),
            endpoint_port=API_PORT,
            issuer=f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        )
        self._server = ApiServer(settings, self._pod_logs, self._pod_port, self._pod_command)
        self.pod_namespace: Callable[[str, str], str] = _no_pod
        """Path of a pod's network namespace; raises OSError where the pod does not run."""
        self.launch = no_commands
        """Starts a command in a container."""

    @classmethod
    async def start(
        cls, nursery: trio.Nursery, config: MeshConfig, folder: StateFolder
    ) -> ClusterApi:
        """Serve on the host's loopback and on the fabric; write the kubeconfig."""
        self = cls(folder)
        server = self._server
        fabric = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        fabric.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        fabric.bind((FABRIC_ADDRESS, API_PORT))
        fabric.listen(256)
        host = socket.socket(fileno=config.api_fd)
        nursery.start_soon(server.serve, [host, fabric])
        await nursery.start(run_controllers, server.cluster, server.ca_pem)
        name = f"ambient-{config.name}"
        kubeconfig = server.kubeconfig(f"https://127.0.0.1:{config.api_port}", name)
        write_kubeconfig(folder, kubeconfig)
        return self

    def direct(self, manager: str) -> DirectApi:
        """The API without HTTP, writing as this field manager."""
        return DirectApi(self._server.cluster, self._server.authority, manager)

    async def _pod_port(self, asked: PodPort) -> trio.abc.Stream:
        """To the pod's loopback, as ``kubectl port-forward`` leads there."""
        with Netns.open(self.pod_namespace(asked.namespace, asked.pod)) as inside:
            sock = inside.run(trio.socket.socket, trio.socket.AF_INET, trio.socket.SOCK_STREAM)
        try:
            await sock.connect(("127.0.0.1", asked.port))
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)

    async def _pod_command(self, asked: PodCommand, fds: Sequence[int]) -> Launched:
        return await self.launch(asked, fds)

    def _pod_logs(self, asked: PodLog) -> AsyncGenerator[bytes, None]:
        path = log_path(self._folder.logs, asked.namespace, asked.pod, asked.container)
        wish = LogWish(
            follow=asked.follow,
            timestamps=asked.timestamps,
            tail_lines=asked.tail_lines,
            since_seconds=asked.since_seconds,
            limit_bytes=asked.limit_bytes,
        )
        return read_log(path, wish)


def _no_pod(namespace: str, name: str) -> str:
    raise OSError(f"pod {namespace}/{name} does not run here")


def write_kubeconfig(folder: StateFolder, content: KubeObject) -> None:
    """The administrator's way in, readable by the owner only."""
    new = folder.kubeconfig.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        yaml.safe_dump(content, out, sort_keys=False)
    new.rename(folder.kubeconfig)
