"""The answers that a waypoint gives itself: Envoy's status codes, bodies, flags and details."""

from __future__ import annotations

from waypoint.core.message import Reply

RESET_PREFIX = "upstream connect error or disconnect/reset before headers. reset reason: "

NO_ROUTE = Reply(404, "", "NR", "route_not_found")
NO_HEALTHY_UPSTREAM = Reply(503, "no healthy upstream", "UH", "no_healthy_upstream")
REQUEST_TIMEOUT = Reply(504, "upstream request timeout", "UT", "response_timeout")
PER_TRY_TIMEOUT = REQUEST_TIMEOUT._replace(details="upstream_per_try_timeout")
UPGRADE_REQUIRED = Reply(426, "Upgrade Required", "DPE", "low_version")
MISSING_HOST = Reply(400, "Bad Request", "DPE", "missing_host_header")
BAD_PATH = Reply(400, "Bad Request", "DPE", "path_normalization_failed")
BACKEND_INVALID = Reply(500, "", "-", "invalid_backend_reference")


def timed_out(reply: Reply = REQUEST_TIMEOUT, *, silent: bool = False) -> Reply:
    """The answer after a timeout; ``silent`` where the client asked for 204 instead."""
    return reply._replace(status=204, body="") if silent else reply


def denied(policy: str) -> Reply:
    """RBAC's refusal; ``policy`` names the deciding rule, or is "none"."""
    return Reply(403, "RBAC: access denied", "-", f"rbac_access_denied_matched_policy[{policy}]")


def unknown_cluster(status: int) -> Reply:
    """The route names a service or subset that does not exist."""
    return Reply(status, "", "NC", "cluster_not_found")


def bad_request(status: int, details: str) -> Reply:
    """The client's bytes are not HTTP that we accept."""
    body = {400: "Bad Request", 431: "Request Header Fields Too Large"}.get(status, "")
    return Reply(status, body, "DPE", details)
