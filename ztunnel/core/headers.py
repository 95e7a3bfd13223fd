"""The headers that HBONE requests and responses carry beside the authority."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from ambient.api.address import HostPort
from ambient.api.workload import Locality, Workload, WorkloadType

BAGGAGE: Final = "baggage"
FORWARDED: Final = "forwarded"
TRACEPARENT: Final = "traceparent"
FORWARDED_NETWORK: Final = "x-forwarded-network"
"""The network that the inner tunnel of double HBONE came from; absent everywhere else."""

Headers = tuple[tuple[str, str], ...]

_TRACE_ID_BYTES: Final = 16  # W3C Trace Context, section 3.2.2
_SPAN_ID_BYTES: Final = 8
TRACE_BYTES: Final = _TRACE_ID_BYTES + _SPAN_ID_BYTES
_MAX_BAGGAGE_VALUE: Final = 253
"""The longest name that Kubernetes allows; anything longer is no name and stays out of labels."""


def request_headers(
    client: Workload, peer: HostPort, service_host: str, randomness: bytes
) -> Headers:
    """What a CONNECT carries. ``randomness``: ``TRACE_BYTES`` fresh bytes for ``traceparent``."""
    return (
        (BAGGAGE, baggage(client)),
        (FORWARDED, forwarded(peer, service_host)),
        (TRACEPARENT, traceparent(randomness)),
    )


@lru_cache(1024)
def baggage(workload: Workload) -> str:
    """Who the workload says it is: a hint for telemetry that proves nothing."""
    parts = (
        ("k8s.cluster.name", workload.cluster_id),
        ("k8s.namespace.name", workload.namespace),
        (f"k8s.{workload.workload_type.name.lower()}.name", workload.workload_name),
        ("service.name", workload.canonical_name),
        ("service.version", workload.canonical_revision),
        ("cloud.region", workload.locality.region),
        ("cloud.availability_zone", workload.locality.zone),
    )
    return ",".join(f"{key}={value}" for key, value in parts if value)


def read_baggage(headers: Headers) -> Workload | None:
    """Whom the other end says that it speaks for, as far as it says so; None where it does not.

    The rest of the workload is unknown, above all its identity: only a certificate proves one.
    """
    return _told(tuple(value for name, value in headers if name == BAGGAGE))


@lru_cache(256)
def _told(values: tuple[str, ...]) -> Workload | None:
    parts: dict[str, str] = {}
    for value in values:
        for part in value.split(","):
            key, _, text = part.strip().partition("=")
            if text and len(text) <= _MAX_BAGGAGE_VALUE:
                parts.setdefault(key, text)
    if not parts:
        return None
    types = [kind for kind in WorkloadType if f"k8s.{kind.name.lower()}.name" in parts]
    kind = types[0] if types else WorkloadType.POD
    return Workload(
        uid="",
        name="",
        namespace=parts.get("k8s.namespace.name", ""),
        cluster_id=parts.get("k8s.cluster.name", ""),
        workload_type=kind,
        workload_name=parts.get(f"k8s.{kind.name.lower()}.name", ""),
        canonical_name=parts.get("service.name", ""),
        canonical_revision=parts.get("service.version", ""),
        locality=Locality(
            region=parts.get("cloud.region", ""), zone=parts.get("cloud.availability_zone", "")
        ),
    )


def forwarded_network(headers: Headers) -> str | None:
    """The network that a gateway's client is in; None where no gateway is said to be between.

    The default network has the empty name.
    """
    return next((value for name, value in headers if name == FORWARDED_NETWORK), None)


def forwarded(peer: HostPort, service_host: str) -> str:
    """RFC 7239: the client's address, and the service that it asked for."""
    host = f";host={service_host}" if service_host else ""
    return f'for="{peer}"{host}'


def forwarded_host(headers: Headers) -> str:
    """The ``host=`` of a Forwarded header; empty where there is none."""
    for name, value in headers:
        if name == FORWARDED:
            for part in value.split(";"):
                key, _, host = part.strip().partition("=")
                if key.lower() == "host":
                    return host.strip('"')
    return ""


def traceparent(randomness: bytes) -> str:
    """W3C Trace Context, version 00, not sampled."""
    trace, span = randomness[:_TRACE_ID_BYTES], randomness[_TRACE_ID_BYTES:TRACE_BYTES]
    return f"00-{trace.hex()}-{span.hex()}-00"


def trace_id(headers: Headers) -> str:
    """The trace id of a well-formed ``traceparent``; empty for any other."""
    for name, value in headers:
        if name == TRACEPARENT:
            parts = value.split("-")
            if [len(part) for part in parts] == [2, 32, 16, 2] and _is_hex("".join(parts)):
                return parts[1]
    return ""


def _is_hex(text: str) -> bool:
    return all(char in "0123456789abcdef" for char in text)
