"""Envoy's ejection arithmetic, one row per sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.objects import UnusableError
from waypoint.core.outlier import (
    Cause,
    Detector,
    Monitor,
    OutlierDetection,
    compile_outlier_detection,
)

HOSTS = 10


def run(events, **settings):
    """Statuses, or "reset", "timeout"; the causes of ejections, by position."""
    detector = Detector(OutlierDetection(max_ejection_percent=100, **settings), 0.0)
    monitor = Monitor()
    found = {}
    for index, event in enumerate(events):
        if isinstance(event, int):
            cause = detector.response(monitor, event, HOSTS, 1.0)
        else:
            cause = detector.failure(monitor, HOSTS, 1.0, timeout=event == "timeout")
        if cause is not None:
            found[index] = cause
    return found


E5, GW, LO = Cause.SERVER_ERRORS, Cause.GATEWAY_ERRORS, Cause.LOCAL_FAILURES


@pytest.mark.parametrize(
    ("events", "settings", "ejections"),
    [
        ([500] * 5, {}, {4: E5}),
        ([500] * 4 + [200] + [500] * 4, {}, {}),  # any other status begins anew
        ([500] * 4 + [404] + [500], {}, {}),
        (["reset"] * 5, {}, {4: E5}),  # no response counts as 503
        ([500, "reset", "timeout", 503, 502], {}, {4: E5}),
        ([500] * 9, {"consecutive_5xx": 0}, {}),
        ([503] * 3, {"consecutive_gateway": 3}, {2: GW}),
        ([503, 503, 500, 503], {"consecutive_gateway": 3}, {}),  # 500 is no gateway error
        (["timeout"] * 2, {"consecutive_gateway": 2}, {1: GW}),
        (["reset"] * 5, {"split_local": True}, {4: LO}),
        (["reset"] * 4 + [500, "reset"], {"split_local": True}, {}),
        (["reset"] * 4 + [500] * 5, {"split_local": True}, {8: E5}),
        (["reset"] * 2, {"split_local": True, "consecutive_local": 2}, {1: LO}),
        ([500] * 20, {}, {4: E5}),  # one that is ejected is not ejected again
    ],
)
def test_counters(events, settings, ejections):
    assert run(events, **settings) == ejections


@pytest.mark.parametrize(
    ("hosts", "percent", "ejected"),
    [(10, 10, 1), (9, 10, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (1, 100, 1), (3, 99, 2)],
)
def test_no_more_than_the_percentage_is_ejected(hosts, percent, ejected):
    settings = OutlierDetection(consecutive_5xx=1, max_ejection_percent=percent)
    detector = Detector(settings, 0.0)
    monitors = [Monitor() for _ in range(hosts)]
    for monitor in monitors:
        detector.response(monitor, 500, hosts, 0.0)
    assert sum(monitor.ejected for monitor in monitors) == detector.ejected == ejected
    assert detector.refused == hosts - ejected


def test_each_ejection_lasts_longer_and_good_behaviour_is_rewarded():
    settings = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100)
    detector, monitor = Detector(settings, 0.0), Monitor()

    def eject_and_wait(now_s):
        detector.response(monitor, 500, 1, now_s)
        assert monitor.ejected
        start_s = now_s
        while monitor.ejected:
            now_s += 10
            detector.sweep([monitor], now_s)
        return now_s - start_s, now_s

    first, now_s = eject_and_wait(0.0)
    second, now_s = eject_and_wait(now_s)
    third, now_s = eject_and_wait(now_s)
    assert (first, second, third) == (30, 60, 90)
    detector.sweep([monitor], now_s + 20)  # two sweeps of good behaviour take two steps back
    again, now_s = eject_and_wait(now_s + 20)
    assert again == 60
    for _ in range(20):
        last, now_s = eject_and_wait(now_s)
    assert last == 300  # the cap


def test_a_long_base_is_its_own_cap():
    settings = OutlierDetection(
        consecutive_5xx=1, max_ejection_percent=100, base_ejection_s=400, interval_s=1
    )
    detector, monitor = Detector(settings, 0.0), Monitor()
    detector.response(monitor, 500, 1, 0.0)
    detector.sweep([monitor], 399.0)
    assert monitor.ejected
    assert detector.sweep([monitor], 400.0)
    assert not monitor.ejected


def test_endpoints_return_only_at_sweeps():
    settings = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100, base_ejection_s=1)
    detector, monitor = Detector(settings, 0.0), Monitor()
    detector.response(monitor, 500, 1, 2.0)
    assert not detector.due(9.9)
    assert detector.sweep([monitor], 10.0)


def test_an_idle_cluster_misses_no_sweep():
    settings = OutlierDetection(interval_s=1)
    detector = Detector(settings, 0.0)
    assert not detector.sweep([Monitor()], 1e9)
    assert not detector.due(1e9)
    assert detector.due(1e9 + 1)


def test_one_that_leaves_makes_room():
    settings = OutlierDetection(consecutive_5xx=1, max_ejection_percent=50)
    detector, one, other = Detector(settings, 0.0), Monitor(), Monitor()
    detector.response(one, 500, 2, 0.0)
    detector.response(other, 500, 2, 0.0)
    assert not other.ejected
    detector.gone(one)
    detector.response(other, 500, 2, 0.0)
    assert other.ejected


@given(st.lists(st.sampled_from([200, 500, 503, "reset", "timeout", "sweep"]), max_size=200))
def test_the_number_of_ejected_is_always_right(events):
    settings = OutlierDetection(consecutive_5xx=2, consecutive_gateway=1, max_ejection_percent=60)
    detector, monitors, now_s = Detector(settings, 0.0), [Monitor() for _ in range(4)], 0.0
    for index, event in enumerate(events):
        now_s += 7
        monitor = monitors[index % 4]
        if event == "sweep":
            detector.sweep(monitors, now_s)
        elif isinstance(event, int):
            detector.response(monitor, event, 4, now_s)
        else:
            detector.failure(monitor, 4, now_s)
        assert detector.ejected == sum(one.ejected for one in monitors) <= 2


def test_reading():
    assert compile_outlier_detection({}, "f") == OutlierDetection()
    found = compile_outlier_detection(
        {
            "consecutive5xxErrors": 0,
            "consecutiveGatewayErrors": 3,
            "interval": "1s",
            "baseEjectionTime": "3m",
            "maxEjectionPercent": 100,
            "minHealthPercent": 30,
            "splitExternalLocalOriginErrors": True,
            "consecutiveLocalOriginFailures": 7,
        },
        "f",
    )
    assert found == OutlierDetection(
        consecutive_5xx=0,
        consecutive_gateway=3,
        consecutive_local=7,
        split_local=True,
        interval_s=1,
        base_ejection_s=180,
        max_ejection_percent=100,
        min_health_percent=30,
    )
    for field, bad in {"maxEjectionPercent": 101, "interval": "soon"}.items():
        with pytest.raises(UnusableError, match=field):
            compile_outlier_detection({field: bad}, "f")
