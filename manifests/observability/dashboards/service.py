"""Service: requests and connections to one service, by who calls it and which pods serve."""

from __future__ import annotations

from grafana_foundation_sdk.builders import timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard

from manifests.observability.dashboards.panels import (
    dashboard,
    lines,
    number,
    quantiles,
    rate,
    row,
    variable,
)

SERVICE = 'reporter=~"waypoint|destination",destination_service=~"$service"'
TCP = 'reporter="destination",app="ztunnel",destination_service=~"$service"'
SOURCE = "source_workload, source_workload_namespace"
SOURCE_LEGEND = "{{source_workload}}.{{source_workload_namespace}}"
SERVER = "destination_workload, destination_workload_namespace"
SERVER_LEGEND = "{{destination_workload}}.{{destination_workload_namespace}}"


def build() -> Dashboard:
    """The dashboard."""
    requests, tcp = "istio_requests_total", "istio_tcp_{}_bytes_total"
    every, good = rate(requests, SERVICE), rate(requests, SERVICE + ',response_code!~"5.."')
    made = (
        dashboard("Ambient Service", "ambient-service", "now-15m")
        .with_variable(
            variable("service", "Service", "istio_tcp_sent_bytes_total", "destination_service")
        )
        .with_row(row("General"))
        .with_panel(number("Request volume", "reqps", every))
        .with_panel(number("Success rate", "percentunit", f"{good} / {every}"))
        .with_panel(number("TCP received", "Bps", rate(tcp.format("received"), TCP)))
        .with_panel(number("TCP sent", "Bps", rate(tcp.format("sent"), TCP)))
        .with_panel(
            lines(
                "Request duration",
                "ms",
                *quantiles("istio_request_duration_milliseconds", SERVICE),
                span=24,
            )
        )
    )
    for title, by, legend in (
        ("Client workloads", SOURCE, SOURCE_LEGEND),
        ("Service workloads", SERVER, SERVER_LEGEND),
    ):
        made = made.with_row(row(title))
        for panel in _breakdown(by, legend):
            made = made.with_panel(panel)
    return made


def _breakdown(by: str, legend: str) -> list[timeseries.Panel]:
    requests = "istio_requests_total"
    good = rate(requests, SERVICE + ',response_code!~"5.."', by)
    return [
        lines(
            "Requests by response code",
            "reqps",
            (
                rate(requests, SERVICE, f"{by}, response_code, connection_security_policy"),
                legend + " {{response_code}} {{connection_security_policy}}",
            ),
        ),
        lines("Success rate", "percentunit", (f"{good} / {rate(requests, SERVICE, by)}", legend)),
        lines(
            "Request duration", "ms", *quantiles("istio_request_duration_milliseconds", SERVICE, by)
        ),
        lines(
            "Connections opened",
            "cps",
            (
                rate(
                    "istio_tcp_connections_opened_total", TCP, f"{by}, connection_security_policy"
                ),
                legend + " {{connection_security_policy}}",
            ),
        ),
        lines("Bytes received", "Bps", (rate("istio_tcp_received_bytes_total", TCP, by), legend)),
        lines("Bytes sent", "Bps", (rate("istio_tcp_sent_bytes_total", TCP, by), legend)),
    ]
