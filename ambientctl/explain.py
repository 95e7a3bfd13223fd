"""``ambientctl explain KIND``: which field works in which layer."""

from __future__ import annotations

from difflib import get_close_matches

import click

from ambient.api.errors import UsageError
from ambientctl.printing import dump, output_option, table
from ambientctl.support_matrix import MATRIX, find


@click.command("explain")
@click.argument("kind", required=False)
@output_option("text", "json", "yaml")
def command(kind: str | None, output: str) -> None:
    """Say which fields of a KIND act at node tunnels and which at waypoints.

    Without KIND: all kinds, and when each does anything at all.
    """
    if kind is None:
        if output != "text":
            dump({name: one._asdict() for name, one in MATRIX.items()}, output)
            return
        table(["KIND", "GROUP", "ACTS"], [[k, s.group, s.acts] for k, s in MATRIX.items()])
        return
    found = find(kind)
    if found is None:
        near = get_close_matches(kind.lower(), [name.lower() for name in MATRIX], 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(MATRIX)}"
        raise UsageError(f"the mesh does not know kind {kind}", hint=hint)
    name, support = found
    if output != "text":
        rows = [row._asdict() for row in support.rows]
        dump({"kind": name, "group": support.group, "acts": support.acts, "fields": rows}, output)
        return
    print(f"{name} ({support.group}) acts {support.acts}.")
    if support.rows:
        print()
        table(
            ["FIELD", "TUNNEL (L4)", "WAYPOINT (L7)", "NOTE"], [list(row) for row in support.rows]
        )
