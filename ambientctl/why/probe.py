"""``why --probe``: the connection itself, made by the source's tunnel from inside the source pod,
and whether it went as was worked out.

The tunnel connects as the pod's application would (``ztunnel/io/call.py``), so that the pod needs
neither a shell nor curl; the API server has to reach the node's kubelet, as for a port-forward.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

import msgspec

from ambient.api.errors import MeshError
from ambient.api.ports import ADMIN_PORT
from ambient.api.service import AppProtocol
from ambient.kube.core.errors import KubeError
from ambient.kube.core.resources import KubeObject
from ambient.kube.io.client import KubeClient
from ambientctl.reach import ask, decoded, port_of
from ambientctl.why.mesh import Mesh
from ambientctl.why.parties import Source, Target
from ambientctl.why.walk import Http, Walk
from ambientctl.ztunnel_config.finding import tunnels
from ztunnel.core.call import Call, Called, HttpRequest, Outcome

ANSWER_S: Final = 20.0
"""For the tunnel's answer; its call takes 12 s at most."""
IN_HTTP: Final = frozenset({AppProtocol.HTTP11, AppProtocol.HTTP2, AppProtocol.GRPC})


class Probed(msgspec.Struct, kw_only=True):
    """One real connection, beside what was worked out."""

    sent: str
    called: Called
    agrees: bool | None
    """None where it tells nothing about the prediction."""
    difference: str = ""


def by_proxy(called: Called) -> bool:
    """A waypoint answered by itself: what came from the application has a time."""
    names = {name.lower() for name in called.headers}
    return (
        called.headers.get("server") == "istio-envoy"
        and "x-envoy-upstream-service-time" not in names
    )


def told(called: Called) -> str:
    """In one line."""
    ms = f"after {called.seconds * 1000:.0f} ms"
    more = f": {called.error}" if called.error else ""
    match called.outcome:
        case Outcome.ANSWERED if not called.status:
            return f"the application spoke {ms}{more}"
        case Outcome.ANSWERED if by_proxy(called):
            return f"a proxy answered {called.status} {ms}: {called.body.strip()}"
        case Outcome.ANSWERED:
            return f"the application answered {called.status} {ms}"
        case Outcome.OPEN:
            return "connected, and it stays open"
        case Outcome.CLOSED:
            return f"closed {ms} without an answer{more}"
        case Outcome.FAILED | Outcome.SILENT:
            return f"no answer {ms}{more}"


def call_of(target: Target, http: Http, found: Walk, mesh: Mesh) -> Call:
    """What the tunnel is asked for: HTTP where the port speaks it or the caller gave a request."""
    protocol = _protocol(target, mesh)
    through_waypoint = any(hop.at.startswith("waypoint ") for hop in found.hops)
    looked_into = through_waypoint and protocol is AppProtocol.UNKNOWN
    if http == Http() and protocol not in IN_HTTP and not looked_into:
        return Call(to=str(target.address))
    headers = [*http.headers]
    if "host" not in dict(headers):
        host = target.service.hostname if target.service else target.address.host
        headers.insert(0, ("host", host))
    request = HttpRequest(method=http.method, path=http.path, headers=headers)
    return Call(to=str(target.address), http=request)


def _protocol(target: Target, mesh: Mesh) -> AppProtocol:
    port = target.address.port
    if target.service is not None:
        known = (one.app_protocol for one in target.service.ports if one.service_port == port)
        return next(known, AppProtocol.UNKNOWN)
    ip = target.address.ip
    for service in mesh.state.services:
        for end in mesh.state.endpoints(service):
            if ip in end.workload.addresses:
                for one in service.ports:
                    if port in (one.target_port, one.service_port):
                        return one.app_protocol
    return AppProtocol.UNKNOWN


def compared(sent: str, called: Called, predicted: Walk, *, http: bool) -> Probed:
    """Did it go as was worked out?"""
    answered = called.outcome is Outcome.ANSWERED and not by_proxy(called)
    passed = answered or called.outcome is Outcome.OPEN
    if not called.captured:
        said = "the source's tunnel never saw the connection: its pod is not redirected"
        return Probed(sent=sent, called=called, agrees=False, difference=said)
    if called.outcome is Outcome.CLOSED and not called.error and predicted.allowed and not http:
        return Probed(sent=sent, called=called, agrees=None)
    agrees = passed is predicted.allowed
    difference = ""
    if not agrees:
        difference = (
            "it was expected to pass" if predicted.allowed else "it was expected to be refused"
        )
    return Probed(sent=sent, called=called, agrees=agrees, difference=difference)


async def probe(
    kube: KubeClient, mesh: Mesh, parties: tuple[Source, Target], http: Http, predicted: Walk
) -> Probed:
    """Make the connection. Raises MeshError where it cannot be made from there."""
    source, target = parties
    pod = _pod(mesh, source)
    name = f"{source.workload.namespace}/{source.workload.name}"
    found = await tunnels(kube, node=pod["spec"].get("nodeName") or "")
    at = port_of(found[0], ADMIN_PORT)
    wish = call_of(target, http, predicted, mesh)
    path = f"/call?{urlencode({'pod': pod['metadata'].get('uid', '')})}"
    try:
        answer = await ask(
            kube, at, path, method="POST", limit_s=ANSWER_S, body=msgspec.json.encode(wish)
        )
        called = msgspec.convert(decoded(answer, at, "/call"), Called, strict=False)
    except msgspec.ValidationError as error:
        raise MeshError(f"{at} answers in another way: {error}") from error
    except MeshError as error:
        hint = error.hint or f"does it serve the pod? ambientctl describe pod {name}"
        if isinstance(error, KubeError) and error.status >= 500:
            node = pod["spec"].get("nodeName")
            hint = (
                f"does the API server reach the kubelet of {node}? "
                f"kubectl -n {at.namespace} port-forward {at.pod} {at.port}"
            )
        raise MeshError(
            f"the tunnel {at.pod} makes no connection for {name}: {error}", hint=hint
        ) from error
    in_http = wish.http is not None
    what = f"{http.method} {http.path}" if in_http else "a connection"
    return compared(f"{what} from {name} to {target.address}", called, predicted, http=in_http)


def _pod(mesh: Mesh, source: Source) -> KubeObject:
    workload = source.workload
    pod = mesh.around.pods.get((workload.namespace, workload.name))
    if pod is None or source.hypothetical:
        raise MeshError(
            f"{source.label} is no pod of this cluster: nobody can connect from there",
            hint="name a pod as SRC, or leave --probe out",
        )
    if not source.captured:
        name = f"{workload.namespace}/{workload.name}"
        raise MeshError(
            f"{name} is not in the mesh: no tunnel can connect from inside it",
            hint=f"kubectl debug -n {workload.namespace} {workload.name} -it "
            "--image=curlimages/curl -- curl -v URL",
        )
    return pod
