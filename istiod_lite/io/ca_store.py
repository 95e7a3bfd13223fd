"""Where the authority comes from: Secret istio-ca-secret, made by whoever starts first."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Any, Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ambient.api.errors import MeshError
from ambient.kube.core.errors import Conflict, NotFound
from ambient.kube.core.resources import SECRETS
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core.certificates import Authority, key_pem, self_signed

SECRET_NAME: Final = "istio-ca-secret"
SECRET_TYPE: Final = "istio.io/ca-root"
CERTIFICATE_KEY: Final = "ca-cert.pem"
PRIVATE_KEY_KEY: Final = "ca-key.pem"
ROOTS_KEY: Final = "root-cert.pem"
RETRY_S: Final = 5.0
"""Istio: how often a Secret that cannot be read is tried again."""

log = get_logger("ca")


async def load_authority(kube: KubeClient, namespace: str, trust_domain: str) -> Authority:
    """Read the Secret, or create it. Raises MeshError if what is in it cannot be used.

    While the API server does not answer this waits and tries again.
    """
    while True:
        try:
            return await _read_or_create(kube, namespace, trust_domain)
        except Conflict:
            continue  # another replica was first: read what it made
        except MeshError as error:
            if isinstance(error, _UnusableError):
                raise
            log.warning(Event.CONTROLLER_RETRY, what=f"Secret {namespace}/{SECRET_NAME}",
                        error=str(error), hint=error.hint, wait_s=RETRY_S)  # fmt: skip
        await trio.sleep(RETRY_S)


async def _read_or_create(kube: KubeClient, namespace: str, trust_domain: str) -> Authority:
    try:
        authority = _authority(await kube.get(SECRETS, SECRET_NAME, namespace))
        made = False
    except NotFound:
        secret = _new_secret(namespace, trust_domain)
        authority = _authority(secret)
        await kube.create(SECRETS, secret)
        made = True
    log.info(
        Event.CA_READY,
        root=authority.certificate.subject.rfc4514_string(),
        until=authority.certificate.not_valid_after_utc.isoformat(),
        created=made,
    )
    return authority


class _UnusableError(MeshError):
    """The Secret is there but its content is no authority."""


def _authority(secret: dict[str, Any]) -> Authority:
    data = secret.get("data") or {}
    try:
        certificate, key, roots = (
            base64.b64decode(data[name], validate=True)
            for name in (CERTIFICATE_KEY, PRIVATE_KEY_KEY, ROOTS_KEY)
        )
    except KeyError as error:
        raise _UnusableError(
            f"Secret {SECRET_NAME} has no {error}",
            hint=f"add it, or delete Secret {SECRET_NAME} to get a new root",
        ) from None
    except (binascii.Error, ValueError):
        raise _UnusableError(
            f"Secret {SECRET_NAME} holds data that is not base64",
            hint=f"correct it, or delete Secret {SECRET_NAME} to get a new root",
        ) from None
    try:
        return Authority(certificate, key, roots)
    except MeshError as error:
        raise _UnusableError(str(error), hint=error.hint) from None


def _new_secret(namespace: str, trust_domain: str) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    root = self_signed(key, trust_domain, now=datetime.now(UTC), serial=x509.random_serial_number())
    # The empty entries are what Istio writes there too.
    content = {
        CERTIFICATE_KEY: root,
        PRIVATE_KEY_KEY: key_pem(key),
        ROOTS_KEY: root,
        "cert-chain.pem": b"",
        "key.pem": b"",
    }
    return {
        "metadata": {"name": SECRET_NAME, "namespace": namespace},
        "type": SECRET_TYPE,
        "data": {name: base64.b64encode(value).decode() for name, value in content.items()},
    }
