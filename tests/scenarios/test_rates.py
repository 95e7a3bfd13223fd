"""What guides of service meshes do against too many requests."""

from __future__ import annotations

from tests.scenarios.mesh import Mesh, until

DETAILS = "http://details:9080/details/0"
RATINGS = "http://ratings:9080/ratings/0"


def test_a_route_has_a_bucket_of_its_own(mesh: Mesh) -> None:
    with mesh.applied("rates/local-route"):
        until(lambda: mesh.status(DETAILS) == 429)
        headers, body = mesh.answer(DETAILS)
        assert body == "local_rate_limited"
        assert headers["x-local-rate-limit"] == "true"
        assert "x-envoy-ratelimited" not in headers
        assert mesh.statuses("http://details:9080/health", times=6) == [200] * 6


def test_descriptors_have_buckets_of_their_own(mesh: Mesh) -> None:
    gold, silver = ("-H", "x-tier: gold"), ("-H", "x-tier: silver")
    with mesh.applied("rates/local-descriptor"):
        until(lambda: mesh.answer(RATINGS)[0].get("x-ratelimit-limit") == "1000")
        assert sorted(mesh.statuses(RATINGS, *silver, times=4)) == [200] * 2 + [429] * 2
        assert sorted(mesh.statuses(RATINGS, *gold, times=7)) == [200] * 5 + [429] * 2
        assert mesh.answer(RATINGS, *silver)[0]["x-ratelimit-remaining"] == "0"
        assert mesh.statuses(RATINGS, times=4) == [200] * 4


def test_a_service_counts_for_the_mesh(stage: Mesh) -> None:
    with stage.applied("rates/global"):
        until(lambda: stage.status(RATINGS) == 429)
        assert stage.answer(RATINGS)[0]["x-envoy-ratelimited"] == "true"
        # Three passed, whoever asked; and the waypoint counts nothing by itself.
        assert stage.status(RATINGS, pod="productpage") == 429
        jason = [stage.status(DETAILS, "-H", "end-user: jason") for _ in range(3)]
        assert jason == [200, 200, 429]
        assert stage.status(DETAILS) == 200
        # While nobody counts, a filter with failure_mode_deny refuses.
        stage.kubectl("scale", "deployment/rate-limits", "-n", "tools", "--replicas=0")
        try:
            until(lambda: stage.status(DETAILS) == 500)
        finally:
            stage.kubectl("scale", "deployment/rate-limits", "-n", "tools", "--replicas=1")
