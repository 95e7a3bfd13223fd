"""Secrets of TLS (Envoy's SDS), both directions."""

from __future__ import annotations

from ambient.api.credential import Credential
from ambient.api.pb import secret_pb2 as spb
from ambient.xds.core.wire.parts import parse, text


def read_credential(raw: bytes) -> Credential:
    """Raises BadResource."""
    message = parse(spb.Secret, raw)
    shown, believed = message.tls_certificate, message.validation_context
    return Credential(
        name=text("name", message.name),
        certificate_pem=shown.certificate_chain.inline_bytes,
        private_key_pem=shown.private_key.inline_bytes,
        ca_pem=believed.trusted_ca.inline_bytes,
        crl_pem=believed.crl.inline_bytes,
    )


def put_credential(value: Credential) -> spb.Secret:
    """One that is empty has a name only."""
    message = spb.Secret(name=value.name)
    if value.certificate_pem:
        message.tls_certificate.certificate_chain.inline_bytes = value.certificate_pem
        message.tls_certificate.private_key.inline_bytes = value.private_key_pem
    elif value.ca_pem:
        message.validation_context.trusted_ca.inline_bytes = value.ca_pem
        if value.crl_pem:
            message.validation_context.crl.inline_bytes = value.crl_pem
    return message
