"""Grafana dashboards as code; ``make dashboards`` writes them as JSON for Grafana.

Titles, units and variables follow Istio's dashboards, so people find what they know. Every query is
run against a real Prometheus in tests, so a panel that would stay empty fails there.
"""
