"""One gRPC call: certificate request in, certificate chain out (istio.v1.auth)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import grpc
import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.api.pb import citadel_pb2 as pb
from ambient.api.spiffe import Identity

METHOD: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
CALL_TIMEOUT_S: Final = 10.0
"""For connect and answer together."""
CHANNEL_OPTIONS: Final = (
    # The control plane is inside the mesh; a proxy of the environment is not on the way.
    ("grpc.enable_http_proxy", 0),
    # A new channel is a new connection, not a shared one that is still backing off.
    ("grpc.use_local_subchannel_pool", 1),
    # Who waits between attempts is the certificate store. gRPC's own pause grows to two minutes, in
    # which every call fails with the old error although the CA is back.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class CaError(MeshError):
    """The CA did not give us a certificate."""


class CaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the CA is and how we prove who we are.

    ``address`` is ``host:port``; ``root_ca_file`` verifies the CA, whose certificate has to name
    ``alt_hostname`` (empty: the host of the address). An empty ``root_ca_file`` means plain text.
    The files are read again for every call, because both are rotated by others.
    """

    address: str
    root_ca_file: str
    token_file: str
    cluster_id: str = "Kubernetes"
    alt_hostname: str = ""
    headers: dict[str, str] = {}
    """More metadata for every call."""


class CaClient:
    """Calls the CA. The connection is kept, and made anew when the root file changes."""

    def __init__(self, settings: CaSettings) -> None:
        self._settings = settings
        self._channel: grpc.Channel | None = None
        self._root: bytes = b""

    async def sign(
        self, identity: Identity, csr_pem: bytes, *, impersonate: bool, ttl_s: int
    ) -> list[str]:
        """The chain for a request: leaf, intermediates, roots (all in the last element), PEM.

        ``impersonate``: we are a node tunnel that asks for an identity of one of its pods.
        Raises CaError.
        """
        request = pb.IstioCertificateRequest(csr=csr_pem.decode(), validity_duration=ttl_s)
        if impersonate:
            request.metadata.update({"ImpersonatedIdentity": str(identity)})
        metadata = [("clusterid", self._settings.cluster_id), *self._bearer()]
        metadata += [(name.lower(), value) for name, value in self._settings.headers.items()]
        call = self._method()(request, timeout=CALL_TIMEOUT_S, metadata=metadata)
        try:
            return list((await _result(call)).cert_chain)
        except grpc.RpcError as err:
            raise self._error(identity, err) from None

    def close(self) -> None:
        """End the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _method(self) -> Any:
        settings = self._settings
        root = _read(settings.root_ca_file, "root certificate") if settings.root_ca_file else b""
        if self._channel is None or root != self._root:
            self.close()
            self._root = root
            if not root:
                self._channel = grpc.insecure_channel(settings.address, CHANNEL_OPTIONS)
            else:
                name = settings.alt_hostname
                override = (("grpc.ssl_target_name_override", name),) if name else ()
                self._channel = grpc.secure_channel(
                    settings.address,
                    grpc.ssl_channel_credentials(root),
                    (*CHANNEL_OPTIONS, *override),
                )
        method = self._channel.unary_unary(
            METHOD,
            request_serializer=pb.IstioCertificateRequest.SerializeToString,
            response_deserializer=pb.IstioCertificateResponse.FromString,
        )
        return method.future

    def _bearer(self) -> list[tuple[str, str]]:
        if not self._settings.token_file:
            return []
        token = _read(self._settings.token_file, "token").decode("ascii", "replace").strip()
        if not token:
            raise CaError(f"the token file {self._settings.token_file} is empty")
        return [("authorization", f"Bearer {token}")]

    def _error(self, identity: Identity, err: grpc.RpcError) -> CaError:
        code: grpc.StatusCode = err.code()
        details = err.details() or "no details"
        hints = {
            grpc.StatusCode.UNAUTHENTICATED: (
                "does a pod with this service account run on this node, and is the token current?"
            ),
            grpc.StatusCode.UNAVAILABLE: f"is the control plane up at {self._settings.address}, "
            f"and does {self._settings.root_ca_file or 'its root'} match its certificate?",
        }
        return CaError(
            f"no certificate for {identity}: signing gRPC error ({code.name}): {details}",
            hint=hints.get(code, ""),
        )


async def _result(call: Any) -> Any:
    """The result of a gRPC future, without a thread that waits; cancelling ends the call."""
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()

    def wake(_: object) -> None:
        try:
            token.run_sync_soon(done.set)
        except trio.RunFinishedError:
            return  # The program ended first; nobody waits any more.

    call.add_done_callback(wake)
    try:
        await done.wait()
    except trio.Cancelled:
        call.cancel()
        raise
    return call.result()


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as err:
        raise CaError(
            f"cannot read the {what} file {path}: {err.strerror}",
            hint="is the volume mounted into this program?",
        ) from None
