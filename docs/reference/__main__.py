"""``python -m docs.reference``: write the pages that are made from the code."""

from __future__ import annotations

from pathlib import Path

from ambientctl.reference import reference
from docs.reference import metrics, ports, settings

DOCS = Path(__file__).parents[1]


def pages() -> dict[Path, str]:
    """Each page's path and text."""
    return {
        DOCS / "ambientctl-reference.md": reference(),
        DOCS / "reference" / "settings.md": settings.page(),
        DOCS / "reference" / "metrics.md": metrics.page(),
        DOCS / "reference" / "ports.md": ports.page(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
