"""IstioCertificateService over gRPC: who calls, may they, sign."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import grpc
import trio
from cryptography import x509

from ambient.api.errors import MeshError
from ambient.api.pb import citadel_pb2 as pb
from ambient.api.pb import citadel_pb2_grpc
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core import issue
from istiod_lite.core.certificates import Lifetimes, TtlError
from istiod_lite.core.csr_checks import CsrError, CsrFault
from istiod_lite.core.inputs import Inputs
from istiod_lite.core.issue import Caller, RefusedError
from istiod_lite.io.authenticator import Authenticator
from istiod_lite.io.bridge import Bridge
from istiod_lite.io.issuer import Issuer
from istiod_lite.io.metrics import Metrics

IMPERSONATED: Final = "ImpersonatedIdentity"
"""Key of the request's metadata: a node's tunnel asks for one of its pods."""
APPEARANCE_S: Final = 1.0
"""A tunnel may ask for a pod that our own watch has not shown yet."""
APPEARANCE_STEP_S: Final = 0.05

log = get_logger("ca")


class CaRules(NamedTuple):
    """Whose identities are issued, and who may ask for others' on its node."""

    trust_domain: str
    trusted_accounts: Callable[[], Collection[str]]
    lifetimes: Lifetimes = Lifetimes()


class CaService(citadel_pb2_grpc.IstioCertificateServiceServicer):
    """The gRPC servicer; decides in trio, because the pods it looks at live there."""

    def __init__(
        self,
        bridge: Bridge,
        authenticator: Authenticator,
        issuer: Issuer,
        inputs: Inputs,
        rules: CaRules,
        metrics: Metrics,
    ) -> None:
        self._bridge = bridge
        self._authenticator = authenticator
        self._issuer = issuer
        self._inputs = inputs
        self._rules = rules
        self._metrics = metrics

    def add_to(self, server: grpc.Server) -> None:
        """Serve it there."""
        add: Any = citadel_pb2_grpc.add_IstioCertificateServiceServicer_to_server
        add(self, server)

    def CreateCertificate(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's
        """One certificate. Refusals tell the caller nothing but that they are refusals."""
        self._metrics.csr.inc()
        try:
            chain = self._bridge.call(self._sign, request, context, is_encrypted(context))
        except RefusedError as error:
            self._metrics.csr_refused.inc()
            log.warning(Event.CERT_REFUSED, peer=context.peer(), reason=str(error))
            text = str(error) if error.public else "request authenticate failure"
            context.abort(grpc.StatusCode.UNAUTHENTICATED, text)
        except CsrError as error:
            self._metrics.csr_faults.labels(error.fault.value).inc()
            if error.fault is CsrFault.UNREADABLE:
                self._metrics.csr_unreadable.inc()
            self._failed("CSR_ERROR", context, grpc.StatusCode.INVALID_ARGUMENT, error)
        except TtlError as error:
            self._failed("TTL_ERROR", context, grpc.StatusCode.INVALID_ARGUMENT, error)
        except (MeshError, trio.TooSlowError) as error:
            self._failed("CA_NOT_READY", context, grpc.StatusCode.UNAVAILABLE, error)
        return pb.IstioCertificateResponse(cert_chain=chain)

    def _failed(self, name: str, context: Any, code: grpc.StatusCode, error: Exception) -> None:
        self._metrics.csr_failed.labels(name).inc()
        log.warning(Event.CERT_REFUSED, peer=context.peer(), reason=str(error))
        context.abort(code, str(error))

    async def _sign(self, request: Any, context: Any, encrypted: bool) -> list[str]:
        """In trio. Raises RefusedError, CsrError, TtlError or MeshError."""
        if not encrypted:
            raise RefusedError("certificates are not issued without TLS")
        caller = await self._authenticator.caller(context.invocation_metadata())
        requested = ""
        if IMPERSONATED in request.metadata.fields:
            requested = request.metadata.fields[IMPERSONATED].string_value
        if requested:
            identity = await self._impersonated(caller, requested)
        else:
            identity = issue.own_identity(caller, self._rules.trust_domain)
        chain = self._issuer.authority.issue(
            request.csr,
            identity,
            self._rules.lifetimes.granted(request.validity_duration),
            now=datetime.now(UTC),
            serial=x509.random_serial_number(),
        )
        self._metrics.issued.inc()
        log.info(Event.CERT_SIGNED, identity=str(identity), caller=caller.account)
        return chain

    async def _impersonated(self, caller: Caller, requested: str) -> Any:
        deadline = trio.current_time() + APPEARANCE_S
        while True:
            try:
                return issue.impersonated(
                    caller,
                    requested,
                    self._inputs,
                    trust_domain=self._rules.trust_domain,
                    trusted_accounts=self._rules.trusted_accounts(),
                )
            except RefusedError as error:
                if not error.may_pass or trio.current_time() >= deadline:
                    raise
            await trio.sleep(APPEARANCE_STEP_S)


def is_encrypted(context: Any) -> bool:
    """Whether the call came through the TLS port."""
    return bool(context.auth_context().get("transport_security_type") == [b"ssl"])
