"""``ambientctl explain KIND[.FIELD]``: which field works in which layer."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

import click
from click.shell_completion import CompletionItem

from ambient.api.errors import UsageError
from ambientctl.printing import dump, output_option, table
from ambientctl.support_matrix import MATRIX, Support, find, select

HEADER: Final = ("FIELD", "TUNNEL (L4)", "WAYPOINT (L7)", "NOTE")


def _kinds(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    return [
        CompletionItem(name, help=f"acts {one.acts}")
        for name, one in MATRIX.items()
        if name.lower().startswith(begun.lower())
    ]


@click.command("explain")
@click.argument("kind", required=False, metavar="[KIND[.FIELD]]", shell_complete=_kinds)
@output_option("text", "json", "yaml")
def command(kind: str | None, output: str) -> None:
    """Say which fields of a KIND act at node tunnels and which at waypoints.

    Without KIND: all kinds, and when each does anything at all. A KIND may be written as kubectl
    takes it, and with the path of a field: ap.spec.rules.to.
    """
    if kind is None:
        if output != "text":
            dump({name: one._asdict() for name, one in MATRIX.items()}, output)
            return
        table(["KIND", "GROUP", "ACTS"], [[k, s.group, s.acts] for k, s in MATRIX.items()])
        return
    name, support, field = _asked(kind)
    rows = select(support, field) if field else support.rows
    if field and not rows:
        raise UsageError(
            f"nothing is known of field {field} of {name}",
            hint=f"ambientctl explain {name} lists its fields",
        )
    if output != "text":
        fields = [row._asdict() for row in rows]
        dump({"kind": name, "group": support.group, "acts": support.acts, "fields": fields}, output)
        return
    print(f"{name} ({support.group}) acts {support.acts}.")
    if rows:
        print()
        table(HEADER, [list(row) for row in rows])


def _asked(text: str) -> tuple[str, Support, str]:
    """Name, support and the path of a field. Raises UsageError for a kind that nobody knows."""
    kind, _, path = text.partition(".")
    found = find(kind)
    if found is None:
        near = get_close_matches(kind.lower(), [name.lower() for name in MATRIX], 1)
        names = {name.lower(): name for name in MATRIX}
        hint = f"did you mean {names[near[0]]}?" if near else f"there are {', '.join(MATRIX)}"
        raise UsageError(f"the mesh does not know kind {kind}", hint=hint)
    name, support = found
    group = support.group.lower()
    if f"{path.lower()}.".startswith(f"{group}."):  # as in authorizationpolicies.security.istio.io
        path = path[len(group) + 1 :]
    return name, support, path
