"""Writes the dashboards as JSON: ``python -m manifests.observability.dashboards``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from manifests.observability.dashboards import (
    control_plane,
    mesh,
    service,
    waypoint,
    workload,
    ztunnel,
)

FOLDER: Final = Path(__file__).resolve().parents[1] / "grafana" / "dashboards"
DASHBOARDS: Final = {
    "mesh": mesh,
    "service": service,
    "workload": workload,
    "ztunnel": ztunnel,
    "waypoint": waypoint,
    "control-plane": control_plane,
}


def rendered() -> dict[str, str]:
    """Each dashboard's JSON by its file's name."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {
        f"{name}.json": encoder.encode(module.build().build()) + "\n"
        for name, module in DASHBOARDS.items()
    }


def main() -> None:
    """Replace the files."""
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
