"""Every way to fail has a flag."""

import pytest

from ambient.api.address import HostPort
from ambient.hbone.core.errors import ConnectRefused, HandshakeError
from ambient.identity.core.verify import PeerIdentityError
from ambient.identity.io.ca_client import CaError
from ambient.net.io.sockets import ConnectError
from ambient.policy.core.decide import Verdict
from ztunnel.core.admit import Denial
from ztunnel.io.failures import ConnectionFailedError, DeniedError, flag_of

HBONE = HostPort("10.0.0.1", 15008)
APP = HostPort("10.0.0.1", 80)


@pytest.mark.parametrize(
    ("error", "flag"),
    [
        (ConnectionFailedError("no healthy upstream"), "CONNECT"),
        (DeniedError(Denial(status=401, reason="r", verdict=Verdict(False, "p", "r"))), "DENY"),
        (DeniedError(Denial(status=400, reason="ip mismatch")), "CONNECT"),
        (ConnectError(HBONE, "late", timed_out=True), "NETWORK_POLICY"),
        (ConnectError(APP, "late", timed_out=True), "CONNECT"),
        (ConnectError(HBONE, "refused"), "CONNECT"),
        (HandshakeError("10.0.0.1", "bad certificate"), "TLS_FAILURE"),
        (PeerIdentityError("wrong identity"), "TLS_FAILURE"),
        (CaError("no"), "IDENTITY_ERROR"),
        (ConnectRefused("10.0.0.1:80", 401), "CONNECT"),
        (OSError("broken"), "CONNECT"),
    ],
)
def test_flag(error, flag):
    assert flag_of(error) == flag
