"""Secrets of TLS (Envoy's SDS), both directions."""

from __future__ import annotations

from ambient.api.credential import Credential
from ambient.api.pb import secret_pb2 as spb
from ambient.xds.core.wire.parts import parse, text


def read_credential(raw: bytes) -> Credential:
    """A key without its certificate counts for nothing. Raises BadResource."""
    message = parse(spb.Secret, raw)
    name = text("name", message.name)
    shown, believed = message.tls_certificate, message.validation_context
    if certificate := shown.certificate_chain.inline_bytes:
        return Credential(name, certificate, shown.private_key.inline_bytes)
    if ca := believed.trusted_ca.inline_bytes:
        return Credential(name, ca_pem=ca, crl_pem=believed.crl.inline_bytes)
    return Credential(name)


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
