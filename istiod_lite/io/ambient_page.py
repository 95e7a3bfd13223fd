"""``/debug/ambientz``: what tunnels are sent, in the JSON that istioctl's bug-report collects."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from google.protobuf import json_format

from ambient.api.policy import Authorization
from ambient.api.service import Service
from ambient.api.workload import Workload
from ambient.xds.core.wire.addresses import put_service, put_workload
from ambient.xds.core.wire.policies import put_authorization


def ambient_page(
    workloads: Iterable[Workload],
    services: Iterable[Service],
    policies: Iterable[Authorization],
) -> dict[str, Any]:
    """Addresses are their text in base64, as Istio has it."""
    return {
        "workloads": [workload_json(one) for one in workloads],
        "services": [service_json(one) for one in services],
        "policies": [json_format.MessageToDict(put_authorization(one)) for one in policies],
    }


def workload_json(value: Workload) -> dict[str, Any]:
    """One workload."""
    message = put_workload(value, labels=False)
    message.addresses[:] = [_text(one) for one in message.addresses]
    _readable(message.waypoint)
    _readable(message.network_gateway)
    return json_format.MessageToDict(message)


def service_json(value: Service) -> dict[str, Any]:
    """One service."""
    message = put_service(value)
    for one in message.addresses:
        one.address = _text(one.address)
    _readable(message.waypoint)
    for weighted in message.weighted_waypoints:
        _readable(weighted.destination)
    return json_format.MessageToDict(message)


def _readable(gateway: Any) -> None:
    # Reading a field of a message that is not set does not set it.
    if gateway.HasField("address"):
        gateway.address.address = _text(gateway.address.address)


def _text(address: bytes) -> bytes:
    return str(ip_address(address)).encode()
