"""How an identity is spelled: ``spiffe://<trust domain>/ns/<namespace>/sa/<service account>``."""

from __future__ import annotations

from typing import NamedTuple

SCHEME = "spiffe://"
DEFAULT_TRUST_DOMAIN = "cluster.local"


class Identity(NamedTuple):
    """A workload's identity (Istio's form of a SPIFFE id)."""

    trust_domain: str
    namespace: str
    service_account: str

    def __str__(self) -> str:
        return SCHEME + self.principal

    @property
    def principal(self) -> str:
        """The form that policies compare: without ``spiffe://``."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read a SPIFFE URI. Raises ValueError that names the text and the expected form."""
        parts = text.removeprefix(SCHEME).split("/")
        well_formed = (
            text.startswith(SCHEME) and len(parts) == 5 and parts[1] == "ns" and parts[3] == "sa"
        )
        if not well_formed or not all(parts):
            raise ValueError(f"{text!r} is not {SCHEME}<trust domain>/ns/<namespace>/sa/<account>")
        return cls(parts[0], parts[2], parts[4])
