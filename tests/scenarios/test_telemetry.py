"""What guides of service meshes do to see what happens."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from tests.scenarios.mesh import Mesh, until

COLLECTOR = "http://collector.tools:8000"
PAGE = "http://productpage:9080/productpage"
RATINGS = "http://ratings:9080/ratings/0"


def new_trace() -> str:
    return secrets.token_hex(16)


def spans(mesh: Mesh, trace: str) -> dict[str, dict[str, Any]]:
    """Of a trace, by what the application was asked for."""
    found = mesh.json(f"{COLLECTOR}/spans")
    return {
        span["attributes"]["http.url"].partition("9080/")[2]: span
        for span in found
        if span["trace_id"] == trace
    }


def test_a_trace_goes_through_three_services(stage: Mesh) -> None:
    other, trace, caller = new_trace(), new_trace(), secrets.token_hex(8)
    before = ("-H", f"traceparent: 00-{other}-{caller}-01")
    v3 = {"productpage", "details/0", "reviews/0", "ratings/0"}
    with stage.applied("traffic/subsets", "telemetry/tracing", "telemetry/reviews-v3"):
        until(lambda: stage.versions(times=6) == {"v3": 6})
        until(lambda: stage.status(PAGE, *before) and spans(stage, other))
        asked = ("-H", f"traceparent: 00-{trace}-{caller}-01", "-H", "end-user: jason")
        assert stage.status(PAGE, *asked) == 200
        until(lambda: spans(stage, trace).keys() == v3)
        found = spans(stage, trace)
    page, reviews, ratings = (found[name] for name in ("productpage", "reviews/0", "ratings/0"))
    assert page["parent_span_id"] == caller
    assert found["details/0"]["parent_span_id"] == reviews["parent_span_id"] == page["span_id"]
    assert ratings["parent_span_id"] == reviews["span_id"]
    assert int(page["start_time_unix_nano"]) < int(ratings["start_time_unix_nano"])
    assert int(ratings["end_time_unix_nano"]) < int(page["end_time_unix_nano"])
    tags = ratings["attributes"]
    assert (tags["shop"], tags["user"]) == ("bookshop", "jason")
    assert tags["pod"].startswith("waypoint-")
    assert tags["http.status_code"] == "200"
    assert tags["istio.canonical_service"]


def test_samples_follow_the_caller(stage: Mesh) -> None:
    wanted, unwanted = new_trace(), new_trace()
    b3 = ("-H", f"b3: {wanted}-00f067aa0ba902b7-1")
    plain = ("-H", f"traceparent: 00-{unwanted}-00f067aa0ba902b7-00")
    with stage.applied("telemetry/sampling"):
        until(lambda: stage.headers("ratings").get("traceparent", "").endswith("-00"))
        by_itself = stage.headers("ratings")["traceparent"]
        assert by_itself.endswith("-00")
        assert stage.headers("ratings", *plain)["traceparent"].endswith("-00")
        assert stage.headers("ratings", *b3)["traceparent"][3:35] == wanted
        until(lambda: wanted in json.dumps(stage.json(f"{COLLECTOR}/spans")))
        told = json.dumps(stage.json(f"{COLLECTOR}/spans"))
        assert unwanted not in told
        assert by_itself[3:35] not in told


def test_b3_and_zipkin(stage: Mesh) -> None:
    trace = new_trace()
    b3 = ("-H", f"x-b3-traceid: {trace}", "-H", "x-b3-spanid: 00f067aa0ba902b7",
          "-H", "x-b3-sampled: 1")  # fmt: skip

    def told() -> dict[str, dict[str, Any]]:
        found = stage.json(f"{COLLECTOR}/api/v2/spans")
        return {span["id"]: span for span in found if span["traceId"] == trace}

    with stage.applied("telemetry/zipkin"):
        # B3 alone: a provider of OpenTelemetry writes W3C's header, too.
        until(lambda: "traceparent" not in stage.headers("ratings", *b3))
        until(lambda: "x-b3-parentspanid" in stage.headers("ratings", *b3))
        headers = stage.headers("ratings", *b3)
        assert headers["x-b3-parentspanid"] == "00f067aa0ba902b7"
        assert (headers["x-b3-traceid"], headers["x-b3-sampled"]) == (trace, "1")
        until(lambda: headers["x-b3-spanid"] in told())
        assert told()[headers["x-b3-spanid"]]["parentId"] == "00f067aa0ba902b7"

        def below_the_page() -> bool:
            parents = {span["id"]: span.get("parentId") for span in told().values()}
            return any(parents.get(parents[one]) == "00f067aa0ba902b7" for one in parents)

        assert stage.status(PAGE, *b3) == 200
        until(below_the_page)


def marked_lines(mesh: Mesh, mark: str) -> list[str]:
    return [line for line in mesh.logs().splitlines() if mark in line]


def test_what_fails_is_logged_as_text(stage: Mesh) -> None:
    mark = f"mark-{time.monotonic_ns()}"
    said = ("-H", f"x-mark: {mark}")
    with stage.applied("telemetry/access-log-text"):
        until(
            lambda: (
                stage.status("http://ratings:9080/nothing", *said)
                and f"TEXT GET /nothing 404 - {mark}" in marked_lines(stage, mark)
            )
        )
        quiet = f"quiet-{time.monotonic_ns()}"
        assert stage.status(f"{RATINGS}?{quiet}") == 200
        assert stage.status(f"http://ratings:9080/nothing?{quiet}") == 404
        until(lambda: marked_lines(stage, quiet))
        assert [line.split()[3] for line in marked_lines(stage, quiet)] == ["404"]


def test_one_service_is_logged_as_json(stage: Mesh) -> None:
    mark = f"mark-{time.monotonic_ns()}"

    def said(what: str) -> tuple[str, str]:
        return "-H", f"x-mark: {mark}-{what}"

    with stage.applied("telemetry/access-log-json"):
        until(
            lambda: (
                stage.status("http://details:9080/details/0", *said("first"))
                and marked_lines(stage, mark)
            )
        )
        assert stage.status(RATINGS, *said("ratings")) == 200
        assert stage.status("http://details:9080/health", *said("health")) == 200
        assert stage.status("http://details:9080/nothing", *said("last")) == 404
        until(lambda: marked_lines(stage, f"{mark}-last"))
        lines = [json.loads(line) for line in marked_lines(stage, mark)]
        assert {line["mark"].rpartition("-")[2] for line in lines} == {"first", "last"}
        last = lines[-1]
        assert (last["log"], last["status"], last["details"]) == ("json", 404, "via_upstream")


def test_a_collector_takes_access_logs(stage: Mesh) -> None:
    mark = f"mark-{time.monotonic_ns()}"

    def told() -> list[dict[str, Any]]:
        assert stage.status(RATINGS, "-H", f"x-mark: {mark}") == 200
        found = stage.json(f"{COLLECTOR}/logs")
        return [one for one in found if one["attributes"].get("mark") == mark]

    with stage.applied("telemetry/access-log-otel"):
        until(told)
        assert told()[0]["body"] == {"string_value": "GET /ratings/0"}
        assert told()[0]["attributes"]["status"] in ("200", 200)


def test_metrics_have_other_tags(mesh: Mesh) -> None:
    def counted(name: str) -> list[str]:
        found = mesh.inside("curl", "-s", "http://localhost:15020/stats/prometheus", pod="waypoint")
        return [line for line in found.splitlines() if line.startswith(name + "{")]

    def by_method() -> list[str]:
        assert mesh.status(RATINGS, "-X", "PUT", "-H", "x-team: blue", "-d", "{}") == 200
        return [one for one in counted("istio_requests_total") if 'team="blue"' in one]

    with mesh.applied("telemetry/metrics"):
        until(by_method)
        (line,) = by_method()
        assert 'request_method="PUT"' in line
        assert 'destination_service_name="ratings"' in line
        assert 'reporter="waypoint"' in line
        assert "request_protocol" not in line
        bytes_counted = [one for one in counted("istio_request_bytes_count") if "ratings" in one]
        assert mesh.status(RATINGS) == 200
        until(lambda: [one for one in counted("istio_requests_total") if 'team="none"' in one])
        assert bytes_counted == [
            one for one in counted("istio_request_bytes_count") if "ratings" in one
        ]
