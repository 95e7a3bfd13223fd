"""Status over xDS, as istioctl asks for it: ``istio.io/debug`` and ``istio.io/debug/syncz``."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2 as pb
from envoy.service.status.v3 import csds_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from istiod_lite.core.issue import Caller
from istiod_lite.io.metrics import VERSION
from istiod_lite.io.xds_clients import Stream

DEBUG_TYPE: Final = "istio.io/debug"
SYNC_TYPE: Final = "istio.io/debug/syncz"
_LOCAL: Final = ("ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]", "unix:")


def is_operator(caller: Caller | None, peer: str, system_namespace: str) -> bool:
    """Whether the whole mesh may be shown: to the machine itself (a port that is forwarded comes
    from there), or to accounts of the system namespace.
    """
    if caller is not None:
        return caller.namespace == system_namespace
    return peer.startswith(_LOCAL)


def answer(
    request: Any, streams: Iterable[Stream], page: Callable[[str], bytes | None], replica: str
) -> Any | None:
    """The DiscoveryResponse for a DiscoveryRequest; None for types that are no status."""
    if request.type_url == SYNC_TYPE:
        return _response(request.type_url, [_packed(_client(one)) for one in streams], replica)
    if request.type_url != DEBUG_TYPE and not request.type_url.startswith(f"{DEBUG_TYPE}/"):
        return None
    names = list(request.resource_names) or [request.type_url.removeprefix(f"{DEBUG_TYPE}/")]
    bodies = []
    for name in names[:10]:
        body = page(name)
        if body is None:
            body = msgspec.json.encode({"error": f"there is no status page {name[:100]!r}"})
        bodies.append(AnyMessage(type_url=request.type_url, value=body))
    return _response(request.type_url, bodies, replica)


def _response(type_url: str, resources: list[Any], replica: str) -> Any:
    identity = {
        "Component": "istiod",
        "ID": replica,
        "Info": {"version": VERSION, "revision": "", "golang_version": "", "status": "Clean"},
    }
    return pb.DiscoveryResponse(
        version_info="1",
        nonce=uuid.uuid4().hex,
        type_url=type_url,
        resources=resources,
        control_plane=base_pb2.ControlPlane(identifier=msgspec.json.encode(identity).decode()),
    )


def _packed(message: Any) -> Any:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _client(stream: Stream) -> Any:
    """One row of ``istioctl proxy-status``."""
    node = base_pb2.Node(id=stream.node.name, cluster=stream.node.cluster_id)
    known = {"CLUSTER_ID": stream.node.cluster_id or "Kubernetes"}
    if stream.node.version:
        known["ISTIO_VERSION"] = stream.node.version
    node.metadata.update(known)
    configs = []
    for url, state in dict(stream.state.types).items():
        one = csds_pb2.ClientConfig.GenericXdsConfig(
            type_url=url, config_status=csds_pb2.ConfigStatus.Value(state.status)
        )
        one.last_updated.FromMicroseconds(int(stream.sent_at.get(url, 0) * 1e6))
        if state.error:
            one.error_state.details = state.error
        configs.append(one)
    return csds_pb2.ClientConfig(node=node, generic_xds_configs=configs)
