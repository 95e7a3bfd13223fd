"""Tables that are watched, sorted and shown without headers."""

from __future__ import annotations

import json

import pytest

from ambientctl import listing as module
from tests.unit.ambientctl.meshes import build, istiod, syncz


@pytest.fixture
def mesh(ambientctl):
    build(ambientctl, policies="")
    istiod(ambientctl)
    return ambientctl


def test_rows_without_headers_in_the_order_of_a_column(mesh):
    rows = mesh.ok("waypoint", "list", "-A").splitlines()
    (alone,) = mesh.ok("waypoint", "list", "-A", "--no-headers").splitlines()
    assert alone.split() == rows[1].split()
    names = [row.split()[0] for row in mesh.ok("ps", "--no-headers").splitlines()]
    assert names == ["ztunnel-1.istio-system", "ztunnel-2.istio-system"]
    by_types = mesh.ok("ps", "--no-headers", "--sort-by", "subscribed-types").splitlines()
    assert [row.split()[0] for row in by_types] == names[::-1]
    lost = mesh("ps", "--sort-by", "lost")
    assert lost.status == 2
    assert "hint: columns: NAME, CLUSTER, ISTIOD, VERSION, SUBSCRIBED TYPES" in lost.err


def test_numbers_in_a_column_count_as_such(capsys):
    import click

    from ambientctl.printing import table

    with click.Context(click.Command("x")) as ctx:
        ctx.meta["sort_by"] = "node"
        table(["NODE"], [["node-10"], ["node-9"], ["edge-1"]])
    assert capsys.readouterr().out.split() == ["NODE", "edge-1", "node-9", "node-10"]


def test_watching_shows_what_has_changed(mesh, monkeypatch):
    changes = iter(
        [lambda: None, lambda: istiod(mesh, **{"/debug/syncz": syncz(version="0.2.0")[:1]})]
    )

    def next_look(seconds):
        change = next(changes, None)
        if change is None:
            raise KeyboardInterrupt
        change()

    monkeypatch.setattr(module.time, "sleep", next_look)
    done = mesh("ps", "-w")
    assert done.status == 130
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "NAME", "ztunnel-1.istio-system", "ztunnel-2.istio-system", "ztunnel-1.istio-system",
    ]  # fmt: skip
    assert "0.2.0" in done.out.splitlines()[-1]


def test_waypoints_in_every_format(mesh):
    assert mesh.ok("waypoint", "list", "-n", "shop", "-o", "name") == (
        "gateway.gateway.networking.k8s.io/waypoint\n"
    )
    (one,) = json.loads(mesh.ok("waypoint", "list", "-A", "-o", "json"))["items"]
    assert (one["kind"], one["metadata"]["name"]) == ("Gateway", "waypoint")
    wide = mesh.ok("waypoint", "list", "-A", "-o", "wide")
    assert "waypoint.shop.svc.cluster.local" in wide
    assert mesh.ok("waypoint", "status", "-A").split()[:6] == [
        "NAMESPACE", "NAME", "STATUS", "TYPE", "REASON", "MESSAGE",
    ]  # fmt: skip
    (told,) = mesh.json("waypoint", "status", "waypoint", "-n", "shop")
    assert (told["status"], told["namespace"]) == (True, "shop")
    lost = mesh("waypoint", "status", "lost", "-n", "shop")
    assert lost.status == 1
    assert "there is no waypoint shop/lost; waypoints there: waypoint" in lost.err
