"""What guides of service meshes do with traffic, applied with kubectl to a whole local mesh."""

from __future__ import annotations

import json
import time

from tests.scenarios.mesh import Mesh, status, until


def test_canary_by_weight(mesh: Mesh) -> None:
    with mesh.applied("traffic/subsets", "traffic/canary-weights"):
        until(lambda: "v3" not in mesh.versions(times=12))
        found = mesh.versions(times=100)
        assert set(found) == {"v1", "v2"}
        assert 60 < found["v1"] < 97


def test_canary_by_header_and_ab_by_cookie(mesh: Mesh) -> None:
    with mesh.applied("traffic/subsets", "traffic/canary-header"):
        until(lambda: mesh.versions(times=12) == {"v1": 12})
        assert mesh.versions("-H", "end-user: jason", times=8) == {"v2": 8}
    with mesh.applied("traffic/subsets", "traffic/ab-cookie"):
        until(lambda: mesh.versions(times=12) == {"v1": 12})
        assert mesh.versions("-H", "cookie: a=1; group=b", times=8) == {"v3": 8}
        assert mesh.versions("-H", "cookie: group=bb", times=8) == {"v1": 8}


def test_blue_green(mesh: Mesh) -> None:
    with mesh.applied("traffic/subsets", "traffic/blue-green"):
        until(lambda: mesh.versions(times=12) == {"v1": 12})
        path = "/spec/http/0/route/0/destination/subset"
        patch = json.dumps([{"op": "replace", "path": path, "value": "v3"}])
        mesh.kubectl(
            "patch", "virtualservice", "reviews", "-n", "bookinfo", "--type=json", "-p", patch
        )
        until(lambda: mesh.versions(times=12) == {"v3": 12})


def test_mirror(mesh: Mesh) -> None:
    url, mark = "http://reviews:9080/reviews/0", f"seen-{time.monotonic_ns()}"
    with mesh.applied("traffic/subsets", "traffic/mirror"):
        until(lambda: mesh.versions(times=12) == {"v1": 12})
        review = json.dumps({"reviewer": "mirror", "text": mark})
        (said,) = mesh.curl(url, "-d", review)
        assert json.loads(said.rpartition(" ")[0])["version"] == "v1"
        until(lambda: mark in mesh.curl(url, "-H", "look-at: v3")[0])


def test_timeout_and_delay(mesh: Mesh) -> None:
    with mesh.applied("traffic/subsets", "traffic/timeout"):
        until(lambda: status(mesh.curl("http://reviews:9080/reviews/0")[0]) == 504)
        (line,) = mesh.curl("http://ratings:9080/ratings/0", "-w", " %{time_total} %{http_code}\\n")
        assert float(line.split()[-2]) >= 2
        assert status(line) == 200


def test_abort(mesh: Mesh) -> None:
    url = "http://ratings:9080/ratings/0"
    with mesh.applied("traffic/fault-abort"):
        until(lambda: status(mesh.curl(url, "-H", "end-user: jason")[0]) == 555)
        assert mesh.curl(url, "-H", "end-user: jason") == ["fault filter abort 555"]
        assert status(mesh.curl(url)[0]) == 200


def test_consistent_hash(mesh: Mesh) -> None:
    with mesh.applied("traffic/consistent-hash"):
        until(lambda: len(mesh.versions("-H", "end-user: u0", times=12)) == 1)
        found = set()
        for user in range(8):
            (version,) = mesh.versions("-H", f"end-user: u{user}", times=6)
            found.add(version)
        assert len(found) > 1


def test_delegate(mesh: Mesh) -> None:
    with mesh.applied("traffic/subsets", "traffic/delegate"):
        until(lambda: mesh.versions(times=12) == {"v3": 12})
        assert status(mesh.curl("http://reviews:9080/health")[0]) == 404


def test_gateway_api(mesh: Mesh) -> None:
    with mesh.applied("traffic/gateway-api"):
        url = "http://details:9080"
        until(lambda: status(mesh.curl(f"{url}/old")[0]) == 301)
        location = "".join(mesh.curl(f"{url}/old", "-i")).lower()
        assert "location: http://details:9080/details/0" in location
        echoed = "".join(mesh.curl(f"{url}/echo", "-i", "-H", "x-secret: 1"))
        assert "x-answered: through-the-waypoint" in echoed
        assert '"path": "/headers"' in echoed
        assert '"x-set": "here"' in echoed.lower()
        assert "x-secret" not in echoed.lower()


def test_failing_pods(mesh: Mesh) -> None:
    url = "http://flaky:8000/"
    with mesh.applied("traffic/flaky"):
        for name in ("good", "bad"):
            what = ["deployment", f"flaky-{name}", "-n", "bookinfo", "--timeout=60s"]
            mesh.kubectl("rollout", "status", *what)
        until(lambda: {status(line) for line in mesh.curl(url, times=20)} == {200, 503})
        with mesh.applied("traffic/retries"):
            until(lambda: {status(line) for line in mesh.curl(url, times=20)} == {200})
        with mesh.applied("traffic/outlier-ejection"):
            until(lambda: {status(line) for line in mesh.curl(url, times=20)} == {200})
        with mesh.applied("traffic/circuit-breaking"):

            def answers() -> set[str]:
                lines = mesh.curl(f"{url}slow", times=10, parallel=10)
                return {line.rpartition("reset reason: ")[2] for line in lines}

            until(lambda: answers() == {"200 200", "overflow 503"})
