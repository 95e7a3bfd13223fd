"""Is this pod in the mesh, and why: the one place that decides it.

Precedence, highest first: excluded namespace, host network, the tunnel itself, sidecar, finished,
the pod's label, the namespace's label.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from ambient.kube.core.objects import AMBIENT_MODE_LABEL, Namespace, Pod

SIDECAR_ANNOTATION: Final = "sidecar.istio.io/status"
BYPASS_ANNOTATION: Final = "ambient.istio.io/bypass-inbound-capture"
DNS_ANNOTATION: Final = "ambient.istio.io/dns-capture"
VIRTUAL_INTERFACES_ANNOTATION: Final = "istio.io/reroute-virtual-interfaces"

AMBIENT: Final = "ambient"
NONE: Final = "none"


class Reason(StrEnum):
    """Why a pod is, or is not, in the mesh."""

    EXCLUDED = "its namespace is excluded from the mesh"
    HOST_NETWORK = "it uses the node's network"
    TUNNEL = "it is the node tunnel itself"
    SIDECAR = "it has a sidecar"
    FINISHED = "it has run to its end"
    POD_OUT = f"its label {AMBIENT_MODE_LABEL}={NONE} keeps it out"
    POD_IN = f"its label {AMBIENT_MODE_LABEL}={AMBIENT}"
    NAMESPACE_IN = f"its namespace's label {AMBIENT_MODE_LABEL}={AMBIENT}"
    NOT_LABELLED = f"neither it nor its namespace has the label {AMBIENT_MODE_LABEL}={AMBIENT}"

    @property
    def wanted(self) -> bool:
        """Whether it belongs into the mesh."""
        return self in (Reason.POD_IN, Reason.NAMESPACE_IN)


class Exclusions(NamedTuple):
    """What the operator keeps out."""

    namespaces: frozenset[str]
    system_namespace: str


def decide(pod: Pod, namespace: Namespace | None, exclusions: Exclusions) -> Reason:
    """Whether ``pod`` belongs into the mesh. A namespace that is not known has no labels."""
    metadata = pod.metadata
    if metadata.namespace in exclusions.namespaces:
        return Reason.EXCLUDED
    if pod.spec.host_network:
        return Reason.HOST_NETWORK
    if metadata.namespace == exclusions.system_namespace and metadata.label("app") == "ztunnel":
        return Reason.TUNNEL
    if metadata.annotation(SIDECAR_ANNOTATION) is not None:
        return Reason.SIDECAR
    if pod.finished:
        return Reason.FINISHED
    mode = metadata.label(AMBIENT_MODE_LABEL)
    if mode == NONE:
        return Reason.POD_OUT
    if mode == AMBIENT:
        return Reason.POD_IN
    if namespace is not None and namespace.metadata.label(AMBIENT_MODE_LABEL) == AMBIENT:
        return Reason.NAMESPACE_IN
    return Reason.NOT_LABELLED


def label_problem(kind: str, labelled: Pod | Namespace) -> str:
    """One line about a label value that means nothing; empty where all is well."""
    metadata = labelled.metadata
    mode = metadata.label(AMBIENT_MODE_LABEL)
    if mode in (None, AMBIENT, NONE):
        return ""
    place = f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name
    return (
        f"{kind} {place}: the label {AMBIENT_MODE_LABEL} has the unknown value {mode!r} and is "
        f"ignored; allowed are {AMBIENT!r} and {NONE!r}"
    )


def ineligible(pod: Pod, namespace: Namespace | None) -> str:
    """Why a pod with the mesh's label can never join; empty where it can, or has no label."""
    if not pod.spec.host_network:
        return ""
    metadata = pod.metadata
    own = metadata.label(AMBIENT_MODE_LABEL)
    around = namespace.metadata.label(AMBIENT_MODE_LABEL) if namespace is not None else None
    if AMBIENT not in (own, own or around):
        return ""
    return (
        f"not eligible: hostNetwork. The label {AMBIENT_MODE_LABEL}={AMBIENT} has no effect on "
        "pods that use the node's network, whose traffic cannot be told from the node's own"
    )


class CaptureWishes(NamedTuple):
    """A pod's annotations about its capture; None where it says nothing."""

    inbound: bool
    dns: bool | None
    virtual_interfaces: tuple[str, ...]


def capture_wishes(pod: Pod) -> CaptureWishes:
    """Read them; a value that cannot be understood counts as absent."""
    interfaces = pod.metadata.annotation(VIRTUAL_INTERFACES_ANNOTATION) or ""
    return CaptureWishes(
        inbound=_truth(pod.metadata.annotation(BYPASS_ANNOTATION)) is not True,
        dns=_truth(pod.metadata.annotation(DNS_ANNOTATION)),
        virtual_interfaces=tuple(
            name for name in map(str.strip, interfaces.split(",")) if 0 < len(name) <= 15
        ),
    )


def _truth(text: str | None) -> bool | None:
    """Go's spellings of a truth value, since other tools write them."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    return None
