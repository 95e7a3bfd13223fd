"""Ztunnel and the node agent: what each node's tunnel carries, and whether it can."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from manifests.observability.dashboards.panels import dashboard, lines, number, process, rate, row

APP = 'app="ztunnel"'


def build() -> Dashboard:
    """The dashboard."""
    made = (
        dashboard("Ambient Ztunnel", "ambient-ztunnel")
        .with_row(row("Process"))
        .with_panel(number("Tunnels", "short", f"count(up{{{APP}}} == 1)"))
        .with_panel(number("Pods served", "short", "sum(workload_manager_active_proxy_count)"))
        .with_panel(number("Pods waiting", "short", "sum(workload_manager_pending_proxy_count)"))
        .with_panel(
            number(
                "Pods outside that belong inside",
                "short",
                "sum(ambient_cni_pods_not_redirected)",
            )
        )
    )
    for panel in process("ztunnel"):
        made = made.with_panel(panel)
    return (
        made.with_row(row("Network"))
        .with_panel(
            lines(
                "Connections",
                "cps",
                (rate("istio_tcp_connections_opened_total", APP, "pod"), "opened {{pod}}"),
                (rate("istio_tcp_connections_closed_total", APP, "pod"), "closed {{pod}}"),
            )
        )
        .with_panel(
            lines(
                "Failed connections",
                "cps",
                (
                    rate("istio_tcp_connections_failed_total", APP, "pod, response_flags"),
                    "{{response_flags}} {{pod}}",
                ),
            )
        )
        .with_panel(
            lines(
                "Bytes",
                "Bps",
                (rate("istio_tcp_sent_bytes_total", APP, "pod"), "sent {{pod}}"),
                (rate("istio_tcp_received_bytes_total", APP, "pod"), "received {{pod}}"),
            )
        )
        .with_panel(
            lines("Open sockets", "short", ("istio_tcp_sockets_open", "{{reporter}} {{pod}}"))
        )
        .with_panel(
            lines(
                "DNS requests",
                "reqps",
                (
                    rate("istio_dns_requests_total", APP, "pod, request_query_type"),
                    "{{request_query_type}} {{pod}}",
                ),
            )
        )
        .with_panel(
            lines(
                "Pods of tunnels",
                "short",
                ("workload_manager_active_proxy_count", "served {{pod}}"),
                ("workload_manager_pending_proxy_count", "waiting {{pod}}"),
            )
        )
        .with_row(row("Control plane"))
        .with_panel(
            lines(
                "Messages received",
                "ops",
                (rate("istio_xds_message_total", APP, "url"), "{{url}}"),
            )
        )
        .with_panel(
            lines(
                "Streams that ended",
                "ops",
                (
                    rate("istio_xds_connection_terminations_total", "", "pod, reason"),
                    "{{reason}} {{pod}}",
                ),
            )
        )
        .with_row(row("Node agent"))
        .with_panel(
            lines("Pods by state", "short", ("sum by (state) (ambient_cni_pods)", "{{state}}"))
        )
        .with_panel(
            lines(
                "Ready",
                "short",
                ("istio_cni_install_ready", "plugin chained {{node}}"),
                ("ztunnel_connected", "tunnels connected {{node}}"),
            )
        )
    )
