"""Rates, streams and pictures of traffic: one edge for each real flow."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.telemetry.io.http import Response
from ambientctl.access_log import read_line
from ambientctl.traffic.edges import Counters, Edge, Node, by_workloads, difference, read_all
from ambientctl.traffic.graph import tree
from ambientctl.traffic.svg import columns, draw
from ambientctl.traffic.tap import Filter, concerns, is_the_one, line_of
from ambientctl.traffic.top import row, show, size
from tests.unit.ambientctl.meshes import build

WEB, REVIEWS, WAYPOINT = Node("shop", "web"), Node("shop", "reviews"), Node("shop", "waypoint")


def labels(reporter, source, destination, **more):
    made = {
        "reporter": reporter,
        "source_workload": source.name,
        "source_workload_namespace": source.namespace or "unknown",
        "destination_workload": destination.name,
        "destination_workload_namespace": destination.namespace or "unknown",
        "destination_service": f"{destination.name}.shop.svc.cluster.local",
        "connection_security_policy": "mutual_tls",
        **more,
    }
    return "{" + ",".join(f'{key}="{value}"' for key, value in made.items()) + "}"


def opened(reporter, source, destination, number, **more):
    of = labels(reporter, source, destination, **more)
    return f"istio_tcp_connections_opened_total{of} {number}\n"


def requests(source, destination, number, code="200"):
    of = labels("waypoint", source, destination, response_code=code)
    text = f"istio_requests_total{of} {number}\n"
    for bound, share in ((10, 0.5), (100, 1), ("+Inf", 1)):
        of = labels("waypoint", source, destination, response_code=code, le=bound)
        text += f"istio_request_duration_milliseconds_bucket{of} {number * share}\n"
    return text


TYPES = (
    "# TYPE istio_tcp_connections_opened_total counter\n# TYPE istio_requests_total counter\n"
    "# TYPE istio_request_duration_milliseconds histogram\n"
)


def test_both_ends_of_a_connection_are_one_edge():
    at_source = TYPES + opened("source", WEB, REVIEWS, 7)
    at_destination = opened("destination", WEB, REVIEWS, 6)
    found = read_all([at_source, at_destination])
    ((edge, one),) = found.items()
    assert (edge.source, edge.destination, edge.secure) == (WEB, REVIEWS, True)
    assert one.opened == 6


def test_a_destination_outside_the_mesh_is_told_by_the_source():
    text = opened("source", WEB, Node("", "unknown"), 3, connection_security_policy="unknown",
                  destination_service="api.example.com")  # fmt: skip
    ((edge, one),) = read_all([text]).items()
    assert str(edge.destination) == "api.example.com"
    assert not edge.secure
    assert one.opened == 3


def test_pain_25_a_waypoint_between_is_one_edge_with_requests_not_two_of_bytes():
    texts = [
        opened("source", WEB, WAYPOINT, 5),
        opened("destination", WAYPOINT, REVIEWS, 5),
        opened("source", WAYPOINT, REVIEWS, 5),
        TYPES + requests(WEB, REVIEWS, 40) + requests(WEB, REVIEWS, 10, code="503"),
    ]
    ((edge, one),) = read_all(texts).items()
    assert (edge.source, edge.destination, edge.protocol) == (WEB, REVIEWS, "HTTP")
    assert (one.requests, one.errors) == (50, 10)
    assert one.quantile(0.5) == pytest.approx(10)
    assert 10 < one.quantile(0.99) <= 100


def test_what_a_policy_refuses_is_denied_and_no_error():
    denied = {"response_flags": "DENY", "connection_security_policy": "mutual_tls"}
    refused = labels("waypoint", WEB, Node("", "unknown"), response_code="403",
                     destination_service="ratings.shop.svc.cluster.local",
                     destination_service_name="ratings",
                     destination_service_namespace="shop")  # fmt: skip
    texts = [
        f"istio_tcp_connections_failed_total{labels('destination', WEB, REVIEWS, **denied)} 3\n"
        f"istio_tcp_connections_failed_total{labels('destination', WEB, REVIEWS)} 1\n",
        f"istio_requests_total{refused} 5\n" + requests(WEB, Node("shop", "app"), 4, code="403"),
    ]
    found = {str(edge.destination): one for edge, one in read_all(texts).items()}
    assert all(edge.secure for edge in read_all(texts))
    reviews, ratings, app = found["shop/reviews"], found["shop/ratings"], found["shop/app"]
    assert (reviews.opened, reviews.failed, reviews.denied) == (0, 1, 3)
    assert (ratings.requests, ratings.errors, ratings.denied) == (5, 0, 5)
    assert (app.requests, app.errors, app.denied) == (4, 0, 0)  # the application's own answer
    text = "\n".join(tree(read_all(texts), 0))
    assert "🔒 shop/ratings (5 req, 100% denied)" in text
    assert "🔒 shop/reviews (0 con, 1 failed, 3 denied)" in text
    assert 'class="denied"' in draw(read_all(texts), 0)


def test_rates_are_differences_and_a_restarted_proxy_gives_none_below_zero():
    before = read_all([opened("destination", WEB, REVIEWS, 10)])
    after = read_all([opened("destination", WEB, REVIEWS, 30)])
    (edge,) = after
    assert difference(before, after)[edge].opened == 20
    assert difference(after, before)[edge].opened == 0
    cells = row(edge, difference(before, after)[edge], 2.0)
    assert cells[:6] == ["shop/web", "shop/reviews", "✔", "10.0", "-", "0.0%"]


def test_pain_26_without_a_waypoint_there_are_connections_and_no_requests():
    ((edge, one),) = read_all([opened("destination", WEB, REVIEWS, 10)]).items()
    assert row(edge, one, 1.0)[4] == "-"


def test_quantiles_of_nothing_and_sizes():
    assert Counters().quantile(0.5) is None
    assert Counters(buckets={float("inf"): 0}).quantile(0.5) is None
    assert [size(n) for n in (0, 999, 1000, 2.5e6, 3e9)] == ["0 B", "999 B", "1.0 kB", "2.5 MB",
                                                             "3.0 GB"]  # fmt: skip


# Graphs.


def graph(*pairs):
    nodes = {name: Node("n", name) for pair in pairs for name in pair}
    return {
        Edge(nodes[a], nodes[b], "", "TCP", secure): Counters(opened=1)
        for (a, b), secure in zip(pairs, [True, False] * len(pairs), strict=False)
    }


def test_services_of_one_workload_are_one_line():
    text = "".join(
        opened("source", WEB, WAYPOINT, 2, destination_service=f"{name}.shop")
        for name in ("reviews", "ratings")
    )
    assert list(tree(by_workloads(read_all([TYPES + text])), 0))[1:] == [
        "└─🔒 shop/waypoint (4 con)"
    ]


def test_columns_go_from_callers_to_called_also_around_circles():
    found = columns(graph(("a", "b"), ("b", "c"), ("a", "c"), ("c", "b")))
    assert [[node.name for node in column] for column in found] == [["a"], ["b"], ["c"]]
    assert columns([]) == []


def test_the_picture_is_well_formed_and_names_everything():
    traffic = graph(("a", "b"), ("b", "b"), ("c<x>", "b"))
    picture = ElementTree.fromstring(draw(traffic, 2.0))
    text = " ".join(picture.itertext())
    for name in ("a", "b", "c<x>", "🔒", "0.5 con/s"):
        assert name in text
    assert "outside" not in text
    ElementTree.fromstring(draw({}, 0))


def test_the_tree_names_each_edge_once():
    lines = list(tree(graph(("a", "b"), ("b", "c"), ("a", "c"), ("c", "b")), 0))
    assert lines[0] == "n/a"
    assert sum("n/c (" in line for line in lines) == 2
    assert any(line.endswith(" …") for line in lines)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=14))
def test_every_graph_can_be_drawn_and_every_edge_is_in_the_tree(pairs):
    traffic = graph(*dict.fromkeys(pairs))
    ElementTree.fromstring(draw(traffic, 1.0))
    assert sum("─" in line for line in tree(traffic, 1.0)) == len(traffic)
    nodes = {node for edge in traffic for node in (edge.source, edge.destination)}
    assert {node for column in columns(traffic) for node in column} == nodes


# tap

LINE = (
    "2026-11-28T04:00:00.000000Z\tinfo\taccess\tconnection complete\tsrc.addr=10.0.0.1:5 "
    'src.workload="web" src.namespace="shop" src.identity="spiffe://cluster.local/ns/shop/sa/web" '
    'dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:80 dst.workload="reviews" '
    'dst.namespace="shop" direction="DIRECTION" bytes_sent=1 bytes_recv=2 duration="3ms"'
)
REQUEST = (
    "2026-11-28T04:00:01.000000Z\tinfo\taccess\trequest complete\t"
    'method="GET" path="/a?b" response_code=503 authority="reviews:80" duration=4 '
    'downstream_identity="spiffe://cluster.local/ns/shop/sa/web" policy="shop/no rule 1"'
)


def test_a_line_for_people():
    access = read_line(LINE.replace("DIRECTION", "inbound"))
    assert (
        line_of(access)
        == "04:00:00.000 con shop/web -> shop/reviews tls=true duration=3ms out=1 in=2"
    )
    request = read_line(REQUEST)
    assert "-> reviews:80/a?b GET status=503" in line_of(request)
    assert "policy=shop/no rule 1" in line_of(request)


def test_of_two_lines_of_a_connection_one_is_shown():
    assert is_the_one(read_line(LINE.replace("DIRECTION", "inbound")))
    assert not is_the_one(read_line(LINE.replace("DIRECTION", "outbound")))
    assert is_the_one(read_line(LINE.replace("DIRECTION", "outbound") + ' error="refused"'))


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Filter("", "", "", "", "", False), True),
        (Filter("web", "reviews", "get", "/a", "5..", True), True),
        (Filter("cart", "", "", "", "", False), False),
        (Filter("", "cart", "", "", "", False), False),
        (Filter("", "", "POST", "", "", False), False),
        (Filter("", "", "", "/b", "", False), False),
        (Filter("", "", "", "", "2..", False), False),
    ],
)
def test_filters(wanted, shown):
    assert wanted.has(read_line(REQUEST)) is shown


def test_namespaces_of_either_end():
    assert concerns(read_line(REQUEST), "shop")
    assert not concerns(read_line(REQUEST), "web")
    assert concerns(read_line(LINE), "")


# The commands.


@pytest.fixture
def shop(ambientctl):
    build(ambientctl, policies="")
    counts = {"n": 0}

    def metrics(_):
        counts["n"] += 10
        return Response(200, TYPES + opened("destination", WEB, REVIEWS, counts["n"]))

    ambientctl.program("istio-system/ztunnel-1", 15020, {"/metrics": metrics})
    return ambientctl


def test_top_and_graph_through_the_cluster(shop, tmp_path):
    done = shop("top", "-n", "shop", "--interval", "0.05")
    assert done.status == 0
    assert "shop/web   shop/reviews   ✔" in done.out
    assert "not asked: istio-system/ztunnel-2" in done.err
    (one,) = shop.json("top", "-n", "shop", "--interval", "0.05")
    assert one["connectionsPerSecond"] > 0
    assert shop.json("top", "-A", "--from", "cart", "--interval", "0.01") == []
    wide = shop.ok("top", "-n", "shop", "--interval", "0.05", "-o", "wide").splitlines()
    assert wide[0].split()[-2:] == ["PROTOCOL", "SERVICE"]
    assert wide[1].split()[-2:] == ["TCP", "reviews.shop.svc.cluster.local"]
    (total,) = shop.json("graph", "-n", "shop")
    assert total["connections"] >= 10
    assert not any("PerSecond" in name for name in total)
    text = shop.ok("graph", "-n", "shop")
    assert text.splitlines()[0] == "shop/web"
    path = tmp_path / "graph.svg"
    shop.ok("graph", "-A", "-o", "svg", "-f", str(path))
    ElementTree.parse(path)
    assert shop("graph", "-o", "svg", "-f", "/nowhere/x").status == 2


def test_without_proxies_there_is_one_clear_line(ambientctl):
    for command in ("top", "graph", "tap"):
        done = ambientctl(command)
        assert done.status == 1
        assert "error: no ztunnel and no waypoint runs" in done.err


@pytest.mark.parametrize("command", ["top", "graph", "tap"])
def test_a_namespace_that_is_not_there_is_named(shop, command):
    quick = {"top": ("--interval", "0.01"), "tap": ("--no-follow",)}.get(command, ())
    done = shop(command, "-n", "nowhere", *quick)
    assert (done.status, done.out) == (1, "")
    assert "error: there is no namespace nowhere" in done.err
    if command != "tap":
        quiet = shop(command, "-n", "istio-system", *quick)
        assert (quiet.status, quiet.out) == (0, "")
        assert "No traffic was seen in namespace istio-system." in quiet.err


@pytest.mark.parametrize(
    "asked",
    [("top", "--interval", "0"), ("top", "--interval", "-1"), ("top", "--count", "-1"),
     ("graph", "--seconds", "-1"), ("tap", "--max", "-1")],
)  # fmt: skip
def test_times_and_counts_below_nothing_cannot_be_meant(ambientctl, asked):
    done = ambientctl(*asked)
    assert done.status == 2
    assert "not in the range" in done.err


def test_a_table_that_is_live_fits_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "6")
    traffic = graph(*(("a", f"b{n}") for n in range(9)))
    show(traffic, 1.0, "table", live=True)
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= 60
    assert last == "and 6 more"


def test_tap_prints_what_proxies_log(shop):
    async def logs(wish):
        if wish.pod == "ztunnel-1":
            yield f"{LINE.replace('DIRECTION', 'inbound')}\nnoise\n{REQUEST}\n".encode()

    shop.server._pod_logs = logs
    lines = shop.ok("tap", "--no-follow").splitlines()
    assert len(lines) == 2
    assert len(shop.ok("tap", "--no-follow", "--failed").splitlines()) == 1
    source, destination = lines[0].split()[2:5:2]  # as it is printed
    assert shop.ok("tap", "--no-follow", "--from", source, "--to", destination) == f"{lines[0]}\n"
    assert shop.ok("tap", "--no-follow", "--from", destination) == ""
    (one,) = shop.ok("tap", "--no-follow", "--max", "1", "-o", "json").splitlines()
    assert json.loads(one)["event"] == "connection complete"
    assert shop("tap", "--path", "(").status == 2
