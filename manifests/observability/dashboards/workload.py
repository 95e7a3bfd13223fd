"""Workload: what comes into one workload, and what it asks of others."""

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

IN = 'destination_workload_namespace=~"$namespace",destination_workload=~"$workload"'
OUT = 'source_workload_namespace=~"$namespace",source_workload=~"$workload"'
HTTP = 'reporter=~"waypoint|destination"'
TCP = 'reporter="destination",app="ztunnel"'


def build() -> Dashboard:
    """The dashboard."""
    requests, opened = "istio_requests_total", "istio_tcp_connections_opened_total"
    every = rate(requests, f"{HTTP},{IN}")
    good = rate(requests, f'{HTTP},{IN},response_code!~"5.."')
    made = (
        dashboard("Ambient Workload", "ambient-workload")
        .with_variable(variable("namespace", "Namespace", opened, "destination_workload_namespace"))
        .with_variable(
            variable(
                "workload",
                "Workload",
                opened + '{destination_workload_namespace=~"$namespace"}',
                "destination_workload",
            )
        )
        .with_row(row("General"))
        .with_panel(number("Incoming requests", "reqps", every))
        .with_panel(number("Incoming success rate", "percentunit", f"{good} / {every}"))
        .with_panel(number("Incoming connections", "cps", rate(opened, f"{TCP},{IN}")))
        .with_panel(number("Outgoing connections", "cps", rate(opened, f"{TCP},{OUT}")))
    )
    made = made.with_row(row("Inbound"))
    for panel in _panels(IN, "source_workload, source_workload_namespace", "{{source_workload}}"):
        made = made.with_panel(panel)
    made = made.with_row(row("Outbound"))
    for panel in _panels(OUT, "destination_service", "{{destination_service}}"):
        made = made.with_panel(panel)
    return made


def _panels(selector: str, by: str, legend: str) -> list[timeseries.Panel]:
    http, tcp = f"{HTTP},{selector}", f"{TCP},{selector}"
    return [
        lines(
            "Requests by response code",
            "reqps",
            (
                rate("istio_requests_total", http, f"{by}, response_code"),
                legend + " {{response_code}}",
            ),
        ),
        lines(
            "Request duration", "ms", *quantiles("istio_request_duration_milliseconds", http, by)
        ),
        lines(
            "Connections by security",
            "cps",
            (
                rate(
                    "istio_tcp_connections_opened_total", tcp, f"{by}, connection_security_policy"
                ),
                legend + " {{connection_security_policy}}",
            ),
        ),
        lines(
            "Bytes",
            "Bps",
            (rate("istio_tcp_received_bytes_total", tcp, by), legend + " received"),
            (rate("istio_tcp_sent_bytes_total", tcp, by), legend + " sent"),
        ),
    ]
