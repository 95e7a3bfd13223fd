"""What a tunnel has from the control plane: the mesh state, certificates, and who lost theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import trio

from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.identity.io.ca_client import CaClient
from ambient.identity.io.cert_files import CertFiles
from ambient.identity.io.cert_store import CertStore
from ambient.identity.io.crl_file import revocation_of
from ambient.identity.io.file_watch import follow_file
from ambient.identity.io.grpc_server import GrpcServer
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ambient.xds.core.wire import BadResource
from ambient.xds.io.session import NodeInfo, Update, XdsSession
from ztunnel.settings import Settings

if TYPE_CHECKING:
    from ztunnel.io.local_state import LocalState

XDS_TYPES: Final = (ADDRESS_TYPE, AUTHORIZATION_TYPE)

log = get_logger("identity")

Apply = Callable[[Update], Iterable[BadResource]]


class ControlPlane:
    """Certificates are there from the start; the mesh state where an address is configured.

    Files may take the place of both.
    """

    def __init__(self, settings: Settings, apply: Apply) -> None:
        """``apply`` takes over what the control plane sends. Raises CrlError."""
        self._settings = settings
        self._ca = CaClient(_ca_server(settings))
        self.revocation = revocation_of(settings.crl_path)
        self.certs = self._make_certs()
        self.local: LocalState | None = None
        if settings.local_xds_path or settings.local_xds:
            # Reading YAML costs 1 MB that a tunnel with a control plane does not need.
            from ztunnel.io.local_state import LocalState

            self.local = LocalState(settings.local_xds_path, settings.local_xds, apply)
        self.session: XdsSession | None = None
        if settings.xds_address:
            self.session = XdsSession(
                _xds_server(settings),
                _node_info(settings),
                XDS_TYPES,
                apply,
                on_demand=(ADDRESS_TYPE,) if settings.xds_on_demand else (),
            )
        self._root: bytes | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Everything but the mesh state; starts when the revocation lists are read."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.certs.run)
            if self.revocation is not None:
                await nursery.start(self.revocation.run)
            nursery.start_soon(follow_file, self._settings.ca_root_ca, self._root_file)
            if self.local is not None:
                await nursery.start(self.local.run)
            task_status.started()

    async def demand(self, name: str) -> None:
        """On demand only: have ``network/ip`` or ``namespace/hostname`` in the state."""
        if self.session is not None and self._settings.xds_on_demand:
            await self.session.demand(ADDRESS_TYPE, name)

    def close(self) -> None:
        """End the connection to the CA."""
        self._ca.close()

    def _make_certs(self) -> CertStore:
        settings = self._settings
        if settings.local_cert_dir:
            return CertFiles(settings.local_cert_dir, self.revocation)
        return CertStore(
            self._ca,
            impersonate=not settings.dedicated,
            ttl_s=round(settings.secret_ttl_s),
            revocation=self.revocation,
        )

    def _root_file(self, content: bytes | OSError) -> None:
        """New roots: every certificate is fetched again, because the roots come with it.

        Waiting for half of a certificate's life would leave too little for a rotation.
        """
        if isinstance(content, OSError) or content == self._root:
            return
        if self._root is not None:
            log.info(Event.ROOTS_CHANGED, path=self._settings.ca_root_ca)
            self.certs.renew_all()
        self._root = content


def _xds_server(settings: Settings) -> GrpcServer:
    return GrpcServer.at(
        settings.xds_address,
        root_ca_file=settings.xds_root_ca,
        token_file=settings.auth_token,
        cluster_id=settings.cluster_id,
        alt_hostname=settings.alt_xds_hostname,
        headers=settings.xds_headers,
    )


def _ca_server(settings: Settings) -> GrpcServer:
    return GrpcServer.at(
        settings.ca_address,
        root_ca_file=settings.ca_root_ca,
        token_file=settings.auth_token,
        cluster_id=settings.cluster_id,
        alt_hostname=settings.alt_ca_hostname,
        headers=settings.ca_headers,
    )


def _node_info(settings: Settings) -> NodeInfo:
    return NodeInfo(
        kind="ztunnel",
        ip=settings.instance_ip,
        name=settings.pod_name,
        namespace=settings.pod_namespace,
        node_name=settings.node_name,
        metadata={"CLUSTER_ID": settings.cluster_id, "ISTIO_VERSION": version("ambient-mesh")},
    )
