"""Waypoints: what each carries, how long it takes, and what it refuses."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from manifests.observability.dashboards.panels import (
    dashboard,
    lines,
    number,
    process,
    quantiles,
    rate,
    row,
    variable,
)

OF = 'reporter="waypoint",namespace=~"$namespace",pod=~"$pod"'
REQUESTS = "istio_requests_total"


def build() -> Dashboard:
    """The dashboard."""
    every, good = rate(REQUESTS, OF), rate(REQUESTS, OF + ',response_code!~"5.."')
    made = (
        dashboard("Ambient Waypoint", "ambient-waypoint")
        .with_variable(variable("namespace", "Namespace", 'up{app="waypoint"}', "namespace"))
        .with_variable(variable("pod", "Pod", 'up{app="waypoint",namespace=~"$namespace"}', "pod"))
        .with_row(row("General"))
        .with_panel(number("Waypoints", "short", 'count(up{app="waypoint"} == 1)'))
        .with_panel(number("Requests", "reqps", every))
        .with_panel(number("Success rate", "percentunit", f"{good} / {every}"))
        .with_panel(
            number(
                "Refused (403, 401, 429)",
                "reqps",
                rate(REQUESTS, OF + ',response_code=~"403|401|429"') + " or vector(0)",
            )
        )
    )
    for panel in process("waypoint"):
        made = made.with_panel(panel)
    return (
        made.with_row(row("Requests"))
        .with_panel(
            lines(
                "By service and response code",
                "reqps",
                (
                    rate(REQUESTS, OF, "destination_service, response_code"),
                    "{{destination_service}} {{response_code}}",
                ),
            )
        )
        .with_panel(
            lines(
                "Duration",
                "ms",
                *quantiles("istio_request_duration_milliseconds", OF, "destination_service"),
            )
        )
        .with_panel(
            lines(
                "By client",
                "reqps",
                (
                    rate(REQUESTS, OF, "source_workload, source_workload_namespace"),
                    "{{source_workload}}.{{source_workload_namespace}}",
                ),
            )
        )
        .with_panel(
            lines(
                "By response flag",
                "reqps",
                (rate(REQUESTS, OF, "response_flags"), "{{response_flags}}"),
            )
        )
        .with_row(row("Control plane"))
        .with_panel(
            lines(
                "Messages received",
                "ops",
                (rate("istio_xds_message_total", 'app="waypoint"', "pod, url"), "{{url}} {{pod}}"),
                span=24,
            )
        )
    )
