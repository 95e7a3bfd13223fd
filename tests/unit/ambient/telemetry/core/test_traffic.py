"""Scraped metrics become pairs of workloads with rates."""

from __future__ import annotations

import pytest

from ambient.telemetry.core import traffic
from ambient.telemetry.core.traffic import Pair, Party, Seen

WEB, API, DB = Party("shop", "web"), Party("shop", "api"), Party("shop", "db")
CALL = Pair(WEB, API, "api.shop.svc.cluster.local")


def labels(reporter: str, pair: Pair = CALL, **more: str) -> str:
    every = {
        "reporter": reporter,
        "source_workload": pair.source.workload or "unknown",
        "source_workload_namespace": pair.source.namespace or "unknown",
        "destination_workload": pair.destination.workload,
        "destination_workload_namespace": pair.destination.namespace,
        "destination_service": pair.service or "unknown",
        **more,
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in every.items()) + "}"


def tunnel(reporter: str, opened: float, *, pair: Pair = CALL, policy: str = "mutual_tls") -> str:
    shown = labels(reporter, pair, connection_security_policy=policy)
    return (
        "# TYPE istio_tcp_connections_opened_total counter\n"
        f"istio_tcp_connections_opened_total{shown} {opened}\n"
        "# TYPE istio_tcp_sent_bytes_total counter\n"
        f"istio_tcp_sent_bytes_total{shown} {opened * 100}\n"
        "# TYPE istio_tcp_received_bytes_total counter\n"
        f"istio_tcp_received_bytes_total{shown} {opened * 10}\n"
    )


def failed(reporter: str, flag: str, count: float) -> str:
    shown = labels(reporter, response_flags=flag)
    name = "istio_tcp_connections_failed_total"
    return f"# TYPE {name} counter\n{name}{shown} {count}\n"


def requests(**codes: float) -> str:
    text = "# TYPE istio_requests_total counter\n"
    for code, count in codes.items():
        text += f"istio_requests_total{labels('waypoint', response_code=code[1:])} {count}\n"
    return text


def between(before: str, after: str, seconds: float = 10.0) -> traffic.Rates:
    counted = traffic.since(traffic.read(before), traffic.read(after))
    return traffic.rates([counted], seconds)[CALL]


def test_rates_of_connections() -> None:
    found = between(tunnel("destination", 5), tunnel("destination", 25))
    assert (found.opened, found.secured) == (2.0, 1.0)
    assert (found.sent, found.received) == (200.0, 20.0)
    assert found.p99_ms is None


def test_a_share_of_the_connections_is_in_plain_text() -> None:
    plain = tunnel("destination", 3, policy="unknown").replace("# TYPE", "#")
    found = between("", tunnel("destination", 1) + plain)
    assert found.secured == pytest.approx(0.25)


def test_both_ends_of_a_connection_count_it_once() -> None:
    client = traffic.since({}, traffic.read(tunnel("source", 20)))
    server = traffic.since({}, traffic.read(tunnel("destination", 10)))
    assert traffic.rates([client, server], 10)[CALL].opened == 1.0
    assert traffic.rates([client], 10)[CALL].opened == 2.0


def test_denials_are_the_servers_word() -> None:
    found = between("", failed("destination", "DENY", 20))
    assert (found.denied, found.failed) == (2.0, 0.0)
    found = between("", failed("destination", "CONNECT", 20))
    assert (found.denied, found.failed) == (0.0, 2.0)


def test_what_is_refused_before_a_backend_is_chosen_goes_to_the_service_and_was_encrypted() -> None:
    nobody = Pair(WEB, Party("unknown", "unknown"), CALL.service)
    shown = labels(
        "waypoint",
        nobody,
        response_code="403",
        destination_service_name="api",
        destination_service_namespace="shop",
        connection_security_policy="mutual_tls",
    )
    found = between("", f"# TYPE istio_requests_total counter\nistio_requests_total{shown} 10\n")
    assert (found.refused, found.secured) == (1.0, 1.0)
    denied = failed("destination", "DENY", 20).replace(
        'reporter="d', 'connection_security_policy="mutual_tls",reporter="d'
    )
    assert between("", denied).secured == 1.0


def test_rates_of_requests() -> None:
    found = between(requests(c200=10, c503=0), requests(c200=90, c503=5, c403=15))
    assert (found.requests, found.errors, found.refused) == (10.0, 0.5, 1.5)


def test_a_counter_that_fell_has_begun_anew() -> None:
    assert between(tunnel("destination", 500), tunnel("destination", 20)).opened == 2.0


def test_pods_of_a_workload_on_several_nodes_are_added() -> None:
    one = traffic.since({}, traffic.read(tunnel("destination", 10)))
    assert traffic.rates([one, one, one], 10)[CALL].opened == 3.0


def test_a_client_outside_the_mesh_has_no_name() -> None:
    outside = Pair(Party("", ""), API, "")
    found = traffic.read(tunnel("destination", 1, pair=outside, policy="unknown"))
    assert list(found) == [Seen("destination", outside)]


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [
        ({}, 0.5, None),
        ({1.0: 0, float("inf"): 0}, 0.5, None),
        ({10.0: 10, 20.0: 10, float("inf"): 10}, 0.5, 5.0),
        ({10.0: 5, 20.0: 10, float("inf"): 10}, 0.75, 15.0),
        ({10.0: 5, float("inf"): 10}, 0.99, 10.0),
    ],
)
def test_quantiles_are_prometheus(counts: dict[float, float], share: float, value: float) -> None:
    assert traffic.quantile(counts, share) == value


def test_decisions_of_policies() -> None:
    text = (
        "# TYPE ambient_policy_decisions_total counter\n"
        'ambient_policy_decisions_total{policy="shop/a",decision="allow"} 5\n'
        'ambient_policy_decisions_total{policy="shop/a",decision="deny"} 2\n'
        "# TYPE ambient_policy_dry_run_denials_total counter\n"
        'ambient_policy_dry_run_denials_total{policy="shop/b"} 3\n'
    )
    found = traffic.decisions(text)
    assert found == {
        "shop/a": traffic.Decisions(5, 2, 0),
        "shop/b": traffic.Decisions(0, 0, 3),
    }
    found["shop/a"].add(traffic.Decisions(1, 1, 1))
    assert found["shop/a"] == traffic.Decisions(6, 3, 1)


def test_requests_by_mutual_tls() -> None:
    secured = requests(c200=30).replace(
        'reporter="w', 'connection_security_policy="mutual_tls",reporter="w'
    )
    assert between("", secured).secured == 1.0
    assert between("", requests(c200=30)).secured == 0.0


def test_what_is_no_exposition_is_an_error() -> None:
    with pytest.raises(ValueError, match=r".+"):
        traffic.read("<html>")
    assert traffic.read("") == {}
    assert traffic.read("# TYPE up gauge\nup 1\n") == {}
