"""What a ``credentialName`` stands for: a client certificate, or certificates to believe."""

from __future__ import annotations

from typing import Final

import msgspec

SECRET: Final = "kubernetes://"
CONFIG_MAP: Final = "configmap://"
CA_SUFFIX: Final = "-cacert"
"""Istio's name for the part of a credential that is believed rather than shown."""


class Credential(msgspec.Struct, frozen=True):
    """One part of a credential; empty where the cluster has nothing (usable) of this name.

    ``certificate_pem`` is a chain with its leaf first.
    """

    name: str
    certificate_pem: bytes = b""
    private_key_pem: bytes = b""
    ca_pem: bytes = b""
    crl_pem: bytes = b""

    def __repr__(self) -> str:  # never the key
        return f"Credential({self.name})"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to use."""
        return not (self.certificate_pem or self.ca_pem)


def shown(credential_name: str) -> str:
    """The resource that holds what is shown to servers (pilot/pkg/model/credentials)."""
    return credential_name if "://" in credential_name else f"{SECRET}{credential_name}"


def believed(credential_name: str) -> str:
    """The resource that holds the certificate authorities."""
    return f"{shown(credential_name)}{CA_SUFFIX}"
