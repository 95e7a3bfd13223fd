"""Protobuf to and from the nouns of ``ambient.api``; the only xDS package that sees the messages.

A resource is decoded whole or refused with BadResource. Where a number that we do not know would
change routing or security the resource is refused; a purely descriptive one falls back.
"""

from __future__ import annotations

from google.protobuf.message import Message

from ambient.api.config import ConfigObject
from ambient.api.credential import Credential
from ambient.api.pb import workload_pb2 as wpb
from ambient.api.policy import Authorization
from ambient.api.service import Service
from ambient.api.type_urls import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    CONFIG_TYPE,
    SECRET_TYPE,
    WORKLOAD_TYPE,
)
from ambient.api.workload import Workload
from ambient.xds.core.wire.addresses import put_service, put_workload, read_service, read_workload
from ambient.xds.core.wire.configs import put_config, read_config
from ambient.xds.core.wire.credentials import put_credential, read_credential
from ambient.xds.core.wire.parts import MAX_RESOURCE_BYTES, BadResource, parse
from ambient.xds.core.wire.policies import put_authorization, read_authorization, refusing

__all__ = [
    "ADDRESS_TYPE",
    "AUTHORIZATION_TYPE",
    "CONFIG_TYPE",
    "SECRET_TYPE",
    "WORKLOAD_TYPE",
    "BadResource",
    "Resource",
    "decode",
    "encode",
    "refusing",
    "resource_name",
]

Resource = Workload | Service | Authorization | ConfigObject | Credential


def decode(type_url: str, raw: bytes) -> Resource:
    """Read one resource. Raises BadResource, and nothing else, whatever ``raw`` is."""
    if len(raw) > MAX_RESOURCE_BYTES:
        raise BadResource("resource", f"{len(raw)} bytes", f"above {MAX_RESOURCE_BYTES} bytes")
    if type_url == ADDRESS_TYPE:
        address = parse(wpb.Address, raw)
        match address.WhichOneof("type"):
            case "workload":
                return read_workload(address.workload)
            case "service":
                return read_service(address.service)
            case _:
                raise BadResource("type", None, "neither a workload nor a service")
    if type_url == WORKLOAD_TYPE:
        return read_workload(parse(wpb.Workload, raw))
    if type_url == AUTHORIZATION_TYPE:
        return read_authorization(raw)
    if type_url == CONFIG_TYPE:
        return read_config(raw)
    if type_url == SECRET_TYPE:
        return read_credential(raw)
    raise BadResource("type_url", type_url, "not a type of this mesh")


def encode(
    value: Resource, *, labels: bool = False, bare_workload: bool = False
) -> tuple[str, bytes]:
    """The type URL and the bytes of one resource; equal values give equal bytes.

    ``labels`` adds a workload's pod labels as an extension, which only waypoints need;
    ``bare_workload`` gives WORKLOAD_TYPE instead of ADDRESS_TYPE for a workload.
    """
    message: Message
    match value:
        case Workload():
            inner = put_workload(value, labels=labels)
            message, url = wpb.Address(workload=inner), ADDRESS_TYPE
            if bare_workload:
                message, url = inner, WORKLOAD_TYPE
        case Service():
            message, url = wpb.Address(service=put_service(value)), ADDRESS_TYPE
        case Authorization():
            message, url = put_authorization(value), AUTHORIZATION_TYPE
        case ConfigObject():
            message, url = put_config(value), CONFIG_TYPE
        case Credential():
            message, url = put_credential(value), SECRET_TYPE
    return url, message.SerializeToString(deterministic=True)


def resource_name(value: Resource) -> str:
    """The name under which xDS carries the resource."""
    match value:
        case Workload():
            return value.uid
        case Service():
            return str(value.key)
        case Authorization() | ConfigObject():
            return value.key
        case Credential():
            return value.name
