"""Conversations that are more than a request and its response."""

from __future__ import annotations

import json
from typing import Any

from tests.scenarios.mesh import FOLDER, Mesh, until


def talk(mesh: Mesh, what: str, pod: str = "client") -> dict[str, Any]:
    program = (FOLDER / "programs" / "talk.py").read_text()
    found: dict[str, Any] = json.loads(mesh.inside("python", "-c", program, what, pod=pod))
    return found


def test_grpc_streams_both_ways(stage: Mesh) -> None:
    with stage.applied("protocols/chat"):
        until(lambda: talk(stage, "echo").get("hello") == "route")
        assert talk(stage, "echo") == {"heard": [True] * 3, "hello": "route", "count": "3"}
        assert talk(stage, "count") == {"heard": 5000}
        failed = talk(stage, "fail")
        assert failed == {"code": "FAILED_PRECONDITION", "details": "not in this mood"}
        assert talk(stage, "deadline")["code"] == "DEADLINE_EXCEEDED"
    counted = stage.inside("curl", "-s", "http://localhost:15020/stats/prometheus", pod="waypoint")
    echoes = [
        line
        for line in counted.splitlines()
        if line.startswith("istio_request_messages_total{") and "chat.bookinfo" in line
    ]
    assert any('grpc_response_status="0"' in line for line in counted.splitlines())
    assert echoes


def test_grpc_methods_are_allowed_one_by_one(stage: Mesh) -> None:
    with stage.applied("protocols/methods"):
        until(lambda: talk(stage, "count").get("code") == "PERMISSION_DENIED")
        assert talk(stage, "echo")["count"] == "3"
        assert talk(stage, "echo", pod="details")["code"] == "PERMISSION_DENIED"


def test_a_websocket_passes(stage: Mesh) -> None:
    said = talk(stage, "ws")
    assert said == {
        "heard": [True] * 3,
        "pong": "still there?",
        "protocol": "talk",
        "server": "istio-envoy",
    }
