"""The serving certificate and its CA."""

from __future__ import annotations

import datetime

from cryptography import x509

from ambientctl.local.apiserver.core.certificates import make_serving_certificate


def test_the_chain_verifies_for_every_name():
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    made = make_serving_certificate(["kubernetes.default.svc", "10.96.0.1"], now)
    ca, leaf = x509.load_pem_x509_certificate(made.ca), x509.load_pem_x509_certificate(made.chain)
    leaf.verify_directly_issued_by(ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["kubernetes.default.svc"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.96.0.1"]
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.not_valid_before_utc < now < leaf.not_valid_after_utc
