"""What guides of service meshes do with the choice of an endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.scenarios.mesh import Mesh, until

REVIEWS = "http://reviews:9080/reviews/0"
ZONAL = "http://zonal:9080/health"


@contextmanager
def zones(mesh: Mesh) -> Iterator[None]:
    """The waypoint's node is in zone ``near``, the other in zone ``far``."""
    pods = ("pods", "-n", "bookinfo", "-l", "gateway.networking.k8s.io/gateway-name=waypoint")
    node = mesh.kubectl("get", *pods, "-o", "jsonpath={.items[0].spec.nodeName}")
    other = {"node-1": "node-2", "node-2": "node-1"}[node]
    region = "topology.kubernetes.io/region"
    zone = "topology.kubernetes.io/zone"
    mesh.kubectl("label", "node", node, f"{region}=here", f"{zone}=near")
    mesh.kubectl("label", "node", other, f"{region}=here", f"{zone}=far")
    try:
        yield
    finally:
        mesh.kubectl("label", "nodes", node, other, f"{region}-", f"{zone}-")


def test_a_zone_without_endpoints_is_replaced_by_the_next(mesh: Mesh) -> None:
    def places() -> set[str]:
        """Those that answer; a request that fails is no JSON."""
        answers = mesh.curl(ZONAL, times=8)
        return {json.loads(line.rpartition(" ")[0])["version"] for line in answers}

    def scale(replicas: int) -> None:
        mesh.kubectl("scale", "deployment/zonal-near", "-n", "bookinfo", f"--replicas={replicas}")

    with zones(mesh), mesh.applied("endpoints/locality"):
        mesh.ready("bookinfo", "zonal-near", "zonal-far")
        until(lambda: mesh.status(ZONAL) == 200)
        until(lambda: places() == {"near"})
        # From here on no request fails, whichever zone answers.
        scale(0)
        until(lambda: places() == {"far"})
        scale(1)
        until(lambda: places() == {"near"})


def test_a_session_stays_with_its_pod(mesh: Mesh) -> None:
    def pods(*options: str) -> set[str]:
        """Those that answer a client that keeps its cookies."""
        answers = mesh.curl(REVIEWS, "-b", "", *options, times=6)
        return {json.loads(line.rpartition(" ")[0])["pod"] for line in answers}

    with mesh.applied("endpoints/session"):
        until(lambda: "visit=" in mesh.answer(REVIEWS)[0].get("set-cookie", ""))
        found = [pods() for _ in range(8)]
        assert {len(one) for one in found} == {1}
        assert len(set.union(*found)) > 1
        by_header = ("-H", "x-by: header")
        headers, body = mesh.answer(REVIEWS, *by_header)
        session = ("-H", f"x-session: {headers['x-session']}")
        assert pods(*by_header, *session) == {json.loads(body)["pod"]}
