"""The authority's certificates in Secrets, and the roots that namespaces trust."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item
from istiod_lite.core.analysis.finding import Finding, Severity

SOON: Final = timedelta(days=30)
"""A root that ends within a month is worth a warning: replacing it takes three steps."""
AUTHORITIES: Final = {
    "istio-ca-secret": ("ca-cert.pem",),
    "cacerts": ("ca-cert.pem", "root-cert.pem"),
}
"""Names of Istio's Secrets, and the keys that hold certificates."""
ROOT_MAP: Final = "istio-ca-root-cert"
ROOT_KEY: Final = "root-cert.pem"


def authorities(corpus: Corpus) -> Iterator[Finding]:
    """Certificates of the authority: readable, valid now, and for a while."""
    for name, keys in AUTHORITIES.items():
        item = corpus.get("Secret", corpus.facts.root_namespace, name)
        if item is None:
            continue
        for key in keys:
            data = item.root["data"][key]
            try:
                chain = x509.load_pem_x509_certificates(
                    base64.b64decode(data.text(), validate=True)
                )
            except (ValueError, binascii.Error):
                text = f"{key}: holds no certificate"
                remedy = "write it again from its source"
                yield item.says(codes.CERTIFICATE_UNREADABLE, text, remedy, field=data.path)
                continue
            for certificate in chain:
                yield from _validity(corpus, item, key, certificate)


def _validity(
    corpus: Corpus, item: Item, key: str, certificate: x509.Certificate
) -> Iterator[Finding]:
    ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    who = certificate.subject.rfc4514_string() or "certificate"
    remedy = "docs/control-plane-operations.md: replacing the authority"
    if ends <= corpus.now:
        text = (
            f"{key}: {who} expired at {ends:%Y-%m-%d %H:%M}: no connection of the mesh is accepted"
        )
        yield item.says(codes.CERTIFICATE, text, remedy)
    elif begins > corpus.now:
        text = f"{key}: {who} is not valid before {begins:%Y-%m-%d %H:%M}"
        yield item.says(codes.CERTIFICATE, text, "is the clock right?")
    elif ends - corpus.now < SOON:
        days = (ends - corpus.now).days
        text = f"{key}: {who} expires at {ends:%Y-%m-%d %H:%M}, in {days} days"
        yield item.says(codes.CERTIFICATE, text, remedy, severity=Severity.WARNING)


def roots(corpus: Corpus) -> Iterator[Finding]:
    """Namespaces whose ConfigMap has none of the roots of the system namespace's."""
    own = corpus.get("ConfigMap", corpus.facts.root_namespace, ROOT_MAP)
    if own is None:
        return
    trusted = _fingerprints(own)
    for item in corpus.items("ConfigMap"):
        if item.ref.key.name != ROOT_MAP or item is own:
            continue
        have = _fingerprints(item)
        if not trusted & have:
            text = "trusts other roots than the authority has: its pods believe no certificate"
            remedy = (
                f"kubectl -n {item.namespace} delete configmap {ROOT_MAP}; istiod-lite writes it"
            )
            yield item.says(codes.ROOTS_DIFFER, text, remedy)


def _fingerprints(item: Item) -> set[bytes]:
    text = item.root["data"][ROOT_KEY].text()
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        return set()
    return {one.public_bytes(Encoding.DER) for one in found}
