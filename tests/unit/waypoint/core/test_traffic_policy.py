"""The levels of a traffic policy, and each of its parts."""

from __future__ import annotations

import pytest

from waypoint.core.connection_pool import (
    UNLIMITED,
    ConnectionPool,
    Keepalive,
    RetryBudget,
    compile_connection_pool,
)
from waypoint.core.hash_policy import HashPolicy
from waypoint.core.load_balancer import (
    Balancing,
    Distribute,
    LoadBalancer,
    LocalitySetting,
    Warmup,
    compile_load_balancer,
)
from waypoint.core.objects import UnusableError
from waypoint.core.traffic_policy import ClusterSettings, compile_traffic_policy, settings_for


def policy(spec):
    problems = []
    found = compile_traffic_policy(spec, "spec.trafficPolicy", "DestinationRule/shop/x", problems)
    return found, problems


def settings(spec, subset=None, port=80):
    return settings_for(policy(spec)[0], policy(subset)[0], port)


RANDOM = {"loadBalancer": {"simple": "RANDOM"}}
ROBIN = {"loadBalancer": {"simple": "ROUND_ROBIN"}}
FEW = {"connectionPool": {"http": {"http2MaxRequests": 3}}}


@pytest.mark.parametrize(
    ("spec", "subset", "balancing", "max_requests"),
    [
        (None, None, Balancing.LEAST_REQUEST, UNLIMITED),
        (RANDOM, None, Balancing.RANDOM, UNLIMITED),
        ({**RANDOM, **FEW}, ROBIN, Balancing.ROUND_ROBIN, 3),
        # a port's settings replace all of the destination's
        (
            {**RANDOM, "portLevelSettings": [{"port": {"number": 80}, **FEW}]},
            None,
            Balancing.LEAST_REQUEST,
            3,
        ),
        ({**RANDOM, "portLevelSettings": [{"port": {"number": 81}, **FEW}]}, None, Balancing.RANDOM,
         UNLIMITED),
        (
            {**FEW, "portLevelSettings": [{"port": {"number": 80}, **RANDOM}]},
            {"portLevelSettings": [{"port": {"number": 80}, **ROBIN}]},
            Balancing.ROUND_ROBIN,
            UNLIMITED,
        ),
        (FEW, {**ROBIN, "portLevelSettings": [{"port": {"number": 80}, **RANDOM}]},
         Balancing.RANDOM, 3),
    ],
)  # fmt: skip
def test_levels(spec, subset, balancing, max_requests):
    found = settings(spec, subset)
    assert found.balancer.balancing is balancing
    assert found.pool.max_requests == max_requests


def test_what_no_port_can_change():
    spec = {
        "retryBudget": {"percent": 50, "minRetryConcurrency": 1},
        "proxyProtocol": {"version": "V2"},
        "tls": {"mode": "SIMPLE"},
        "portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "DISABLE"}}],
    }
    found = settings(spec)
    assert found.retry_budget == RetryBudget(percent=50, min_concurrency=1)
    assert found.proxy_protocol == {"version": "V2"}
    assert found.tls == {"mode": "DISABLE"}
    assert settings(spec, port=81).tls == {"mode": "SIMPLE"}


def test_a_part_that_cannot_be_used_does_not_spoil_the_others():
    found, problems = policy({**RANDOM, "outlierDetection": {"interval": "often"}, **FEW})
    assert found.parts.balancer.balancing is Balancing.RANDOM
    assert found.parts.pool.max_requests == 3
    assert found.parts.outliers is None
    assert [(p.field, p.effect) for p in problems] == [
        (
            "spec.trafficPolicy.outlierDetection.interval",
            "outlierDetection is as if it were not there",
        )
    ]
    assert settings_for(None, None, 80) == ClusterSettings()


def test_connection_pool():
    found = compile_connection_pool(
        {
            "tcp": {
                "maxConnections": 7,
                "connectTimeout": "1s",
                "tcpKeepalive": {"probes": 3, "time": "60s", "interval": "5s"},
                "maxConnectionDuration": "1h",
                "idleTimeout": "5m",
            },
            "http": {
                "http1MaxPendingRequests": 1,
                "http2MaxRequests": 2,
                "maxRequestsPerConnection": 3,
                "maxRetries": 4,
                "h2UpgradePolicy": "UPGRADE",
                "useClientProtocol": True,
                "maxConcurrentStreams": 5,
            },
        },
        "f",
    )
    assert found == ConnectionPool(
        max_connections=7,
        connect_timeout_s=1.0,
        keepalive=Keepalive(3, 60, 5),
        max_connection_s=3600.0,
        tcp_idle_s=300.0,
        max_pending=1,
        max_requests=2,
        max_requests_per_connection=3,
        max_retries=4,
        http_idle_s=300.0,
        upgrade=True,
        use_client_protocol=True,
        max_concurrent_streams=5,
    )
    assert compile_connection_pool({}, "f") == ConnectionPool()
    with pytest.raises(UnusableError, match="h2UpgradePolicy"):
        compile_connection_pool({"http": {"h2UpgradePolicy": "MAYBE"}}, "f")


def test_retry_budget():
    assert RetryBudget().allowed(0) == 3
    assert RetryBudget().allowed(100) == 20


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({}, LoadBalancer()),
        ({"simple": "LEAST_CONN"}, LoadBalancer()),
        ({"simple": "PASSTHROUGH"}, LoadBalancer(balancing=Balancing.PASSTHROUGH)),
        (
            {"consistentHash": {"httpHeaderName": "X-User"}},
            LoadBalancer(balancing=Balancing.RING_HASH, hash_policy=HashPolicy(header="x-user")),
        ),
        (
            {"consistentHash": {"useSourceIp": True, "minimumRingSize": 9}},
            LoadBalancer(
                balancing=Balancing.RING_HASH, hash_policy=HashPolicy(source_ip=True), size=9
            ),
        ),
        (
            {"consistentHash": {"httpQueryParameterName": "q", "maglev": {}}},
            LoadBalancer(balancing=Balancing.MAGLEV, hash_policy=HashPolicy(query="q"), size=65537),
        ),
        (
            {"consistentHash": {"httpCookie": {"name": "u", "ttl": "0s", "path": "/"}}},
            LoadBalancer(
                balancing=Balancing.RING_HASH,
                hash_policy=HashPolicy(cookie="u", ttl_s=0.0, path="/"),
            ),
        ),
        (
            {"simple": "ROUND_ROBIN", "warmup": {"duration": "60s", "aggression": 2}},
            LoadBalancer(
                balancing=Balancing.ROUND_ROBIN, warmup=Warmup(duration_s=60, aggression=2)
            ),
        ),
        ({"warmupDurationSecs": "5s"}, LoadBalancer(warmup=Warmup(duration_s=5))),
        (
            {"localityLbSetting": {"distribute": [{"from": "a/*", "to": {"a/b": 100}}]}},
            LoadBalancer(locality=LocalitySetting(distribute=(Distribute("a/*", {"a/b": 100}),))),
        ),
        (
            {"localityLbSetting": {"failover": [{"from": "eu", "to": "us"}], "enabled": True}},
            LoadBalancer(locality=LocalitySetting(failover={"eu": "us"})),
        ),
    ],
)
def test_load_balancer(spec, want):
    assert compile_load_balancer(spec, "f") == want


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"simple": "BEST"}, "f.simple"),
        ({"simple": "RANDOM", "consistentHash": {"useSourceIp": True}}, "f"),
        ({"consistentHash": {}}, "f.consistentHash"),
        ({"consistentHash": {"useSourceIp": True, "httpHeaderName": "x"}}, "f.consistentHash"),
        ({"consistentHash": {"useSourceIp": True, "maglev": {"tableSize": 100}}}, "tableSize"),
        ({"consistentHash": {"httpCookie": {"path": "/"}}}, "httpCookie.name"),
        ({"warmup": {"minimumPercent": 10}}, "warmup.duration"),
        ({"warmup": {"duration": "1s", "aggression": 0.5}}, "aggression"),
        ({"localityLbSetting": {"distribute": [{"from": "a", "to": {"b": 99}}]}}, "to"),
        (
            {"localityLbSetting": {"failoverPriority": ["a"], "distribute": [
                {"from": "a", "to": {"b": 100}}]}},
            "localityLbSetting",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(spec, field):
    with pytest.raises(UnusableError, match=field):
        compile_load_balancer(spec, "f")


def test_warm_up():
    slow = Warmup(duration_s=100)
    assert [slow.factor(age) for age in (0, 5, 50, 100, 500)] == [0.1, 0.1, 0.5, 1.0, 1.0]
    steep = Warmup(duration_s=100, aggression=2, minimum_percent=0)
    assert steep.factor(25) == 0.5


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"tls": {"mode": "SIMPLE"}}, None),
        ({"tls": {"mode": "ODD"}}, "spec.trafficPolicy.tls.mode"),
        ({"tls": {"mode": "MUTUAL"}}, "spec.trafficPolicy.tls"),
        ({"tunnel": {"targetHost": "x"}}, "spec.trafficPolicy.tunnel"),
        ({"tunnel": {"targetHost": "x", "targetPort": 1, "protocol": "PUT"}},
         "spec.trafficPolicy.tunnel.protocol"),
        ({"tunnel": {"targetHost": "x", "targetPort": 1}}, None),
        ({"proxyProtocol": {"version": "V1"}}, None),
        ({"proxyProtocol": {"version": "V3"}}, "spec.trafficPolicy.proxyProtocol.version"),
    ],
)  # fmt: skip
def test_what_is_not_applied_is_said(part, field):
    assert [problem.field for problem in policy(part)[1]] == ([field] if field else [])
