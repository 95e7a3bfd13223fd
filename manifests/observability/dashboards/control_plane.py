"""Control plane: is it up, is it fast, does it sign, and who refuses what it sends."""

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
)

APP = 'app="istiod"'


def build() -> Dashboard:
    """The dashboard."""
    made = (
        dashboard("Ambient Control Plane", "ambient-control-plane")
        .with_row(row("General"))
        .with_panel(number("Replicas", "short", f"count(up{{{APP}}} == 1)"))
        .with_panel(number("Connected proxies", "short", "sum(pilot_xds)"))
        .with_panel(
            number(
                "Stale",
                "s",
                "max(ambient_istiod_stale_seconds)",
            )
        )
        .with_panel(
            number(
                "The root certificate ends in", "s", "min(citadel_server_root_cert_expiry_seconds)"
            )
        )
        .with_panel(number("Services", "short", "max(pilot_services)"))
        .with_panel(number("Workloads", "short", "max(ambient_istiod_workloads)"))
        .with_panel(number("L4 policies", "short", "max(ambient_istiod_authorizations)"))
        .with_panel(number("Objects with remarks", "short", "max(pilot_total_rejected_configs)"))
    )
    for panel in process("istiod"):
        made = made.with_panel(panel)
    return (
        made.with_row(row("Configuration"))
        .with_panel(lines("Pushes", "ops", (rate("pilot_xds_pushes", "", "type"), "{{type}}")))
        .with_panel(lines("Events", "ops", (rate("pilot_inbound_updates", "", "type"), "{{type}}")))
        .with_panel(
            lines(
                "Why proxies were told",
                "ops",
                (rate("pilot_push_triggers", "", "type"), "{{type}}"),
            )
        )
        .with_panel(
            lines(
                "Refused by proxies",
                "ops",
                (rate("pilot_total_xds_rejects", "", "type") + " or vector(0)", "{{type}}"),
                (rate("pilot_total_xds_internal_errors", "") + " or vector(0)", "our mistakes"),
            )
        )
        .with_panel(
            lines(
                "Time from a change to its arrival",
                "s",
                *quantiles("pilot_proxy_convergence_time", ""),
            )
        )
        .with_panel(
            lines(
                "Size of responses", "bytes", *quantiles("pilot_xds_config_size_bytes", "", "type")
            )
        )
        .with_row(row("Certificates and admission"))
        .with_panel(
            lines(
                "Certificates",
                "ops",
                (rate("citadel_server_csr_count", ""), "requested"),
                (rate("citadel_server_success_cert_issuance_count", ""), "issued"),
                (rate("citadel_server_authentication_failure_count", ""), "callers refused"),
            )
        )
        .with_panel(
            lines(
                "Admission",
                "ops",
                (rate("galley_validation_passed", "") + " or vector(0)", "admitted"),
                (rate("galley_validation_failed", "") + " or vector(0)", "refused"),
            )
        )
    )
