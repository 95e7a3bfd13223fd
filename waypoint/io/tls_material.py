"""Certificates, keys and authorities as bytes, into TLS contexts; the key is never on a disk."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple


class TlsMaterial(NamedTuple):
    """PEM, each part empty where there is none."""

    certificate: bytes = b""
    key: bytes = b""
    ca: bytes = b""
    crl: bytes = b""


NO_MATERIAL: Final = TlsMaterial()


def load(context: ssl.SSLContext, material: TlsMaterial) -> None:
    """Raises ssl.SSLError where a part cannot be used, or a key belongs to another certificate."""
    if material.certificate:
        with _file(material.key + b"\n" + material.certificate) as path:
            context.load_cert_chain(path)
    if material.ca:
        with _file(material.ca) as path:
            context.load_verify_locations(path)
    if material.crl:
        with _file(material.crl) as path:
            context.load_verify_locations(path)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def check(material: TlsMaterial) -> None:
    """As ``load``, of what will be loaded."""
    load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), material)


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """OpenSSL reads files only: one that lives in memory and ends with the block."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as memory:
        memory.write(content)
        memory.flush()
        yield f"/proc/self/fd/{descriptor}"
