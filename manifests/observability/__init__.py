"""What watches the mesh: dashboards as code, recording rules, alerts, and a Prometheus to try."""
