"""ZDS messages between the node agent and ztunnel; the only file that knows their bytes.

One protobuf message a packet on a SOCK_SEQPACKET socket, at most ``MAX_MESSAGE_BYTES``. ztunnel
speaks first (``Hello``); then the agent sends one request at a time and ztunnel answers each with
one ``Ack``. ``Add`` carries the descriptor of the pod's network namespace beside the bytes
(``ambient.net.io.agent_socket``), the other messages carry none.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar, assert_never

from google.protobuf.message import DecodeError

from ambient.api.pb import zds_pb2 as pb

MAX_MESSAGE_BYTES: Final = 1024  # ztunnel's and istio-cni's receive buffers
VERSION_1: Final = 1

_MAX_ERROR_BYTES: Final = 900
"""An error text is cut here, so that the Ack around it always fits into one message."""


class WireError(ValueError):
    """A message that cannot be read, or does not fit; the text says why."""


class Hello(NamedTuple):
    """ztunnel's first message."""

    version: int = VERSION_1


class Add(NamedTuple):
    """The pod is in the mesh; the packet carries its network namespace."""

    uid: str
    """Kubernetes pod UID; unrelated to the xDS workload uid."""
    name: str
    namespace: str
    service_account: str


class Keep(NamedTuple):
    """Before ``SnapshotSent``: the pod is still wanted though the agent has no descriptor."""

    uid: str


class Del(NamedTuple):
    """The pod has left the mesh, or is gone."""

    uid: str


class SnapshotSent(NamedTuple):
    """Every pod that is wanted has been named since ``Hello``."""


class Ack(NamedTuple):
    """The answer to one request; an empty error means done."""

    error: str = ""


Request = Add | Keep | Del | SnapshotSent
Message = Request | Hello | Ack

_M = TypeVar("_M", pb.ZdsHello, pb.WorkloadRequest, pb.WorkloadResponse)


def encode(message: Message) -> bytes:
    """The bytes of any ZDS message. Raises WireError where it would not fit into one packet."""
    raw: bytes
    match message:
        case Hello(version):
            raw = pb.ZdsHello(version=pb.Version.ValueType(version)).SerializeToString()
        case Ack(error):
            text = error.encode()[:_MAX_ERROR_BYTES].decode(errors="ignore")
            raw = pb.WorkloadResponse(ack=pb.Ack(error=text)).SerializeToString()
        case Add(uid, name, namespace, service_account):
            info = pb.WorkloadInfo(name=name, namespace=namespace, service_account=service_account)
            add = pb.AddWorkload(uid=uid, workload_info=info)
            raw = pb.WorkloadRequest(add=add).SerializeToString()
        case Keep(uid):
            raw = pb.WorkloadRequest(keep=pb.KeepWorkload(uid=uid)).SerializeToString()
        case Del(uid):
            request = pb.WorkloadRequest()
            getattr(request, "del").uid = uid  # the field's name is a Python keyword
            raw = request.SerializeToString()
        case SnapshotSent():
            raw = pb.WorkloadRequest(snapshot_sent=pb.SnapshotSent()).SerializeToString()
        case never:
            assert_never(never)
    if len(raw) > MAX_MESSAGE_BYTES:
        raise WireError(f"message of {len(raw)} bytes exceeds {MAX_MESSAGE_BYTES}")
    return raw


def decode_hello(data: bytes) -> Hello:
    """Read ztunnel's first message. Raises WireError."""
    return Hello(int(_parse(pb.ZdsHello(), data).version))


def decode_ack(data: bytes) -> Ack:
    """Read ztunnel's answer. Raises WireError."""
    response = _parse(pb.WorkloadResponse(), data)
    if response.WhichOneof("payload") != "ack":
        raise WireError("response without an ack")
    return Ack(response.ack.error)


def decode_request(data: bytes) -> Request:
    """Read the agent's message. Raises WireError that names the message and what it lacks."""
    request = _parse(pb.WorkloadRequest(), data)
    match request.WhichOneof("payload"):
        case "add":
            if not request.add.HasField("workload_info"):
                raise WireError("add without workload_info")
            info = request.add.workload_info
            uid = _uid("add", request.add.uid)
            return Add(uid, info.name, info.namespace, info.service_account)
        case "keep":
            return Keep(_uid("keep", request.keep.uid))
        case "del":
            return Del(_uid("del", getattr(request, "del").uid))
        case "snapshot_sent":
            return SnapshotSent()
        case _:
            raise WireError("request without a payload that this version knows")


def _uid(message: str, uid: str) -> str:
    if not uid:
        raise WireError(f"{message} without a uid")
    return uid


def _parse(message: _M, data: bytes) -> _M:
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"message of {len(data)} bytes exceeds {MAX_MESSAGE_BYTES}")
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"not a {type(message).__name__}: {error}") from None
    return message
