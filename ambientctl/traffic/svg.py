"""The service graph as SVG: columns from callers to called, one arrow a flow. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from xml.sax.saxutils import escape

from ambientctl.traffic.edges import HTTP, Counters, Edge, Node, Traffic

WIDTH, HEIGHT = 190, 46
GAP_X, GAP_Y, MARGIN = 130, 26, 24
SWEEPS: Final = 6
"""Passes that bring neighbours to the same height."""
STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#1f2430}.ns{fill:#667085;font-size:11px}"
    "rect{fill:#fff;stroke:#98a2b3;rx:8}.ok{stroke:#2e7d57}.bad{stroke:#c0362c}.denied{stroke:#b26a00}"
    ".plain{stroke-dasharray:5 4}path{fill:none;stroke-width:1.6}.rate{font-size:11px}"
)


def columns(edges: Iterable[Edge]) -> list[list[Node]]:
    """Nodes by their distance from those whom nobody calls; what calls itself stays where it is."""
    calls: dict[Node, list[Node]] = {}
    for edge in edges:
        calls.setdefault(edge.source, [])
        calls.setdefault(edge.destination, [])
        if edge.destination not in calls[edge.source] and edge.source != edge.destination:
            calls[edge.source].append(edge.destination)
    forward = _without_cycles(calls)
    rank = dict.fromkeys(calls, 0)
    for _ in calls:
        changed = False
        for node, others in forward.items():
            for other in others:
                if rank[other] < rank[node] + 1:
                    rank[other], changed = rank[node] + 1, True
        if not changed:
            break
    found: list[list[Node]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for node in sorted(rank):
        found[rank[node]].append(node)
    return _untangled(found, calls)


def _without_cycles(calls: Mapping[Node, list[Node]]) -> dict[Node, list[Node]]:
    """The same calls without those that lead back (depth first, without recursion)."""
    called = {other for others in calls.values() for other in others}
    order = [*sorted(set(calls) - called), *sorted(called)]
    kept: dict[Node, list[Node]] = {node: [] for node in calls}
    open_: set[Node] = set()
    done: set[Node] = set()
    for start in order:
        if start in done:
            continue
        stack = [(start, iter(sorted(calls[start])))]
        open_.add(start)
        while stack:
            node, others = stack[-1]
            other = next(others, None)
            if other is None:
                stack.pop()
                open_.discard(node)
                done.add(node)
            elif other not in open_:
                kept[node].append(other)
                if other not in done:
                    open_.add(other)
                    stack.append((other, iter(sorted(calls[other]))))
    return kept


def _untangled(found: list[list[Node]], calls: Mapping[Node, list[Node]]) -> list[list[Node]]:
    """Each column in the order of the average height of its neighbours."""
    near: dict[Node, set[Node]] = {node: set() for node in calls}
    for node, others in calls.items():
        for other in others:
            near[node].add(other)
            near[other].add(node)
    for _ in range(SWEEPS):
        height = {node: i for column in found for i, node in enumerate(column)}
        for column in found:
            column.sort(key=lambda node: (_average(near[node], height, height[node]), node))
    return found


def _average(nodes: set[Node], height: Mapping[Node, int], own: int) -> float:
    return sum(height[one] for one in nodes) / len(nodes) if nodes else float(own)


def draw(found: Traffic, seconds: float) -> str:
    """The whole picture; rates are by second where ``seconds`` is given, else totals."""
    grid = columns(found)
    place = {
        node: (MARGIN + x * (WIDTH + GAP_X), MARGIN + y * (HEIGHT + GAP_Y))
        for x, column in enumerate(grid)
        for y, node in enumerate(column)
    }
    width = MARGIN * 2 + len(grid) * (WIDTH + GAP_X) - GAP_X if grid else 2 * MARGIN
    height = MARGIN * 2 + max(map(len, grid), default=0) * (HEIGHT + GAP_Y) - GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {max(height, 60)}" '
        f'width="{width}" height="{max(height, 60)}">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" style="fill:#667085"/></marker>'
        "</defs>",
    ]
    parts += [_arrow(edge, found[edge], place, seconds) for edge in sorted(found)]
    parts += [_box(node, *at) for node, at in place.items()]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(node: Node, x: int, y: int) -> str:
    name = escape(node.name if len(node.name) <= 26 else node.name[:25] + "…")
    space = escape(node.namespace or "outside the mesh")
    return (
        f'<g><rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}"/>'
        f'<text x="{x + 12}" y="{y + 19}">{name}</text>'
        f'<text class="ns" x="{x + 12}" y="{y + 35}">{space}</text></g>'
    )


def _arrow(edge: Edge, one: Counters, place: Mapping[Node, tuple[int, int]], seconds: float) -> str:
    (x1, y1), (x2, y2) = place[edge.source], place[edge.destination]
    if x2 > x1:
        start, end = (x1 + WIDTH, y1 + HEIGHT // 2), (x2, y2 + HEIGHT // 2)
    else:  # back, or to itself: around the right side
        start, end = (x1 + WIDTH, y1 + HEIGHT // 3), (x2 + WIDTH, y2 + 2 * HEIGHT // 3)
    bend = max(abs(end[0] - start[0]) // 2, 60)
    back = bend if x2 <= x1 else -bend
    bends = f"{start[0] + bend} {start[1]} {end[0] + back} {end[1]}"
    path = f"M{start[0]} {start[1]}C{bends} {end[0]} {end[1]}"
    bad = one.errors if edge.protocol == HTTP else one.failed
    health = "bad" if bad else "denied" if one.denied else "ok"
    kind = " ".join([health, *([] if edge.secure else ["plain"])])
    label = escape(rate(edge, one, seconds))
    at = ((start[0] + end[0]) // 2, (start[1] + end[1]) // 2 - 6)
    lock = "🔒 " if edge.secure else ""
    title = escape(f"{edge.source} -> {edge.destination}")
    return (
        f'<g><title>{title}</title><path class="{kind}" d="{path}" marker-end="url(#end)"/>'
        f'<text class="rate" text-anchor="middle" x="{at[0]}" y="{at[1]}">{lock}{label}</text></g>'
    )


def rate(edge: Edge, one: Counters, seconds: float) -> str:
    """What an arrow says."""
    unit = "/s" if seconds else ""
    divide = seconds or 1
    if edge.protocol == HTTP:
        shares = ((one.errors, "errors"), (one.denied, "denied"))
        said = [f"{part / one.requests:.0%} {what}" for part, what in shares if part]
        return ", ".join([f"{one.requests / divide:.4g} req{unit}", *said])
    counts = ((one.failed, "failed"), (one.denied, "denied"))
    said = [f"{part / divide:.4g} {what}{unit}" for part, what in counts if part]
    return ", ".join([f"{one.opened / divide:.4g} con{unit}", *said])
