"""``zc log`` and ``pc log``: the log levels of programs, shown or set over their admin ports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

import click

from ambient.kube.core.resources import KubeObject
from ambient.kube.io.client import KubeClient
from ambientctl.reach import ask, port_of

SPELT: Final = {"warning": "warn", "critical": "error"}
"""istioctl's words for levels that have another name here."""
level_option = click.option("--level", help="A level, or scope:level,scope:level.")
reset_option = click.option("-r", "--reset", is_flag=True, help="Back to the levels of its start.")


async def log_levels(
    kube: KubeClient, pods: Iterable[KubeObject], port: int, level: str | None, *, reset: bool
) -> list[str]:
    """``pod.namespace:`` and its answer, of each. Raises MeshError, also for what is no level."""
    wanted = [*(["reset"] if reset else [])]
    wanted += [f"level={quote(SPELT.get(level, level), safe=':,=')}"] if level else []
    said = []
    for one in pods:
        at = port_of(one, port)
        path = f"/logging?{'&'.join(wanted)}".rstrip("?")
        body = await ask(kube, at, path, method="POST")
        said.append(f"{at.pod}.{at.namespace}:\n{body.decode()}")
    return said
