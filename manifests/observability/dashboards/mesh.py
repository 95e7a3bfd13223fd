"""Mesh: how much traffic there is, how much of it fails, and where."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from manifests.observability.dashboards.panels import dashboard, lines, number, rate, row, rows_of

REPORTER = 'reporter=~"waypoint|destination"'
BY = "destination_workload, destination_workload_namespace, destination_service"
TUNNEL = 'reporter="destination",app="ztunnel"'
REQUESTS = "istio_requests_total"
NONE = " or vector(0)"


def build() -> Dashboard:
    """The dashboard."""
    every = rate(REQUESTS, REPORTER)
    good = rate(REQUESTS, REPORTER + ',response_code!~"5.."')
    opened = rate("istio_tcp_connections_opened_total", TUNNEL)
    secured = rate(
        "istio_tcp_connections_opened_total", TUNNEL + ',connection_security_policy="mutual_tls"'
    )
    denied = rate("istio_tcp_connections_failed_total", 'response_flags="DENY"')
    latency = f"istio_request_duration_milliseconds_bucket{{{REPORTER}}}[$__rate_interval]"
    p99 = f"histogram_quantile(0.99, sum by (le, {BY}) (rate({latency})))"
    return (
        dashboard("Ambient Mesh", "ambient-mesh")
        .with_row(row("Requests"))
        .with_panel(number("Traffic volume", "reqps", every))
        .with_panel(number("Success rate", "percentunit", f"{good} / {every}"))
        .with_panel(
            number("4xx", "reqps", rate(REQUESTS, REPORTER + ',response_code=~"4.."') + NONE)
        )
        .with_panel(
            number("5xx", "reqps", rate(REQUESTS, REPORTER + ',response_code=~"5.."') + NONE)
        )
        .with_panel(
            rows_of(
                "HTTP and gRPC workloads",
                (rate(REQUESTS, REPORTER, BY), "requests/s", "reqps"),
                (p99, "p99", "ms"),
            )
        )
        .with_row(row("Connections"))
        .with_panel(number("New connections", "cps", opened))
        .with_panel(
            number(
                "Mutual TLS",
                "percentunit",
                f"{secured} / {opened}",
            )
        )
        .with_panel(number("Denied by policy", "cps", denied + NONE))
        .with_panel(number("Pods in the mesh", "short", "sum(workload_manager_active_proxy_count)"))
        .with_panel(
            rows_of(
                "TCP workloads",
                (rate("istio_tcp_received_bytes_total", TUNNEL, BY), "received", "Bps"),
                (rate("istio_tcp_sent_bytes_total", TUNNEL, BY), "sent", "Bps"),
            )
        )
        .with_panel(
            lines(
                "Failed connections",
                "cps",
                (
                    rate("istio_tcp_connections_failed_total", "", "response_flags, reporter"),
                    "{{response_flags}} ({{reporter}})",
                ),
            )
        )
        .with_panel(
            lines(
                "Component versions",
                "short",
                ("sum by (component, tag) (istio_build)", "{{component}} {{tag}}"),
            )
        )
    )
