"""One gRPC call: certificate request in, certificate chain out (istio.v1.auth)."""

from __future__ import annotations

from typing import Any, Final

import grpc
import trio

from ambient.api.errors import MeshError
from ambient.api.pb import citadel_pb2 as pb
from ambient.api.spiffe import Identity
from ambient.identity.io.grpc_server import GrpcServer

METHOD: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
CALL_TIMEOUT_S: Final = 10.0
"""For connect and answer together."""
CHANNEL_OPTIONS: Final = (
    # Who waits between attempts is the certificate store. gRPC's own pause grows to two minutes, in
    # which every call fails with the old error although the CA is back.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class CaError(MeshError):
    """The CA did not give us a certificate."""


class CaClient:
    """Calls the CA. The connection is kept, and made anew when the root file changes."""

    def __init__(self, server: GrpcServer) -> None:
        self._server = server
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
        try:
            method, metadata = self._method(), self._server.metadata()
        except MeshError as error:
            raise CaError(str(error), hint=error.hint) from None
        call = method(request, timeout=CALL_TIMEOUT_S, metadata=metadata)
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
        root = self._server.root()
        if self._channel is None or root != self._root:
            self.close()
            self._root = root
            self._channel = self._server.channel(root, *CHANNEL_OPTIONS)
        method = self._channel.unary_unary(
            METHOD,
            request_serializer=pb.IstioCertificateRequest.SerializeToString,
            response_deserializer=pb.IstioCertificateResponse.FromString,
        )
        return method.future

    def _error(self, identity: Identity, err: grpc.RpcError) -> CaError:
        code: grpc.StatusCode = err.code()
        details = err.details() or "no details"
        hints = {
            grpc.StatusCode.UNAUTHENTICATED: (
                "does a pod with this service account run on this node, and is the token current?"
            ),
            grpc.StatusCode.UNAVAILABLE: self._server.unavailable_hint(),
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
