"""Any JSON as the objects that a waypoint compiles, and a request that meets what they became."""

from __future__ import annotations

import json
import random

from ambient.api.config import ConfigObject
from tests.unit.waypoint.sample import AT, OWN, PLACE, mesh, request, service
from waypoint.core.client_hello import server_name
from waypoint.core.dispatch import Destination, Protocol
from waypoint.core.plan import plan
from waypoint.core.program import KINDS, Program

STATE = mesh()
TO = Destination(address=AT, protocol=Protocol.HTTP1, service=service())
_PARENT = {"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}]}
_TARGET = {"targetRefs": [{"group": "", "kind": "Service", "name": "reviews"}]}
_ROUTE = [{"destination": {"host": "reviews", "subset": "v1"}, "weight": 1}]
_REFS = [{"name": "reviews", "port": 9080}]
_POLICY = {
    "loadBalancer": {"consistentHash": {"httpCookie": {"name": "a", "ttl": "1s"}}},
    "outlierDetection": {"interval": "1s", "maxEjectionPercent": 50},
    "connectionPool": {"http": {"http2MaxRequests": 1}, "tcp": {"connectTimeout": "1s"}},
}
SPECS = [
    {
        "VirtualService": {
            "hosts": ["reviews"],
            "http": [
                {
                    "match": [{"uri": {"regex": "/a(b|c)*"}, "headers": {"x": {"exact": "1"}}}],
                    "rewrite": {"uriRegexRewrite": {"match": "/(.*)", "rewrite": "/x/\\1"}},
                    "retries": {"attempts": 1, "retryOn": "5xx,409", "perTryTimeout": "1s"},
                    "fault": {"delay": {"fixedDelay": "1s", "percentage": {"value": 1.5}}},
                    "corsPolicy": {"allowOrigins": [{"prefix": "a"}], "maxAge": "1m"},
                    "mirrors": [{"destination": {"host": "ratings"}}],
                    "headers": {"request": {"set": {"a": "%REQ(x)%"}}},
                    "route": _ROUTE,
                },
                {"redirect": {"uri": "/", "derivePort": "FROM_REQUEST_PORT"}},
            ],
            "tls": [{"match": [{"sniHosts": ["*.a"]}], "route": _ROUTE}],
        },
        "DestinationRule": {
            "host": "reviews",
            "trafficPolicy": _POLICY,
            "subsets": [{"name": "v1"}],
        },
    },
    {"VirtualService": {"hosts": ["reviews"], "http": [{"delegate": {"name": "o"}}]}},
    {
        "HTTPRoute": {
            **_PARENT,
            "rules": [
                {
                    "matches": [{"path": {"type": "RegularExpression", "value": "/a.*"}}],
                    "filters": [
                        {"type": "CORS", "cors": {"allowOrigins": ["*"]}},
                        {"type": "RequestMirror", "requestMirror": {"backendRef": _REFS[0]}},
                        {
                            "type": "ExternalAuth",
                            "externalAuth": {
                                "protocol": "HTTP",
                                "backendRef": _REFS[0],
                                "http": {"path": "/a", "allowedHeaders": ["a"]},
                                "forwardBody": {"maxSize": 1},
                            },
                        },
                    ],
                    "retry": {"codes": [500], "backoff": "1s"},
                    "sessionPersistence": {"type": "Header", "idleTimeout": "1s"},
                    "backendRefs": _REFS,
                }
            ],
        }
    },
    {"GRPCRoute": {**_PARENT, "rules": [{"matches": [{"method": {"service": "a"}}]}]}},
    {"TCPRoute": {**_PARENT, "rules": [{"backendRefs": _REFS}]}},
    {
        "BackendTLSPolicy": {
            **_TARGET,
            "validation": {
                "hostname": "a.b",
                "caCertificateRefs": [{"kind": "ConfigMap", "group": "", "name": "ca"}],
                "subjectAltNames": [{"type": "URI", "uri": "spiffe://a/b"}],
            },
        },
        "XBackendTrafficPolicy": {
            **_TARGET,
            "retryConstraint": {"budget": {"percent": 20, "interval": "10s"}},
            "sessionPersistence": {"sessionName": "s"},
        },
    },
]
SEEDS = [json.dumps(one).encode() for one in SPECS]


def run(data):
    """Raises whatever should not happen."""
    name = server_name(data)
    assert name is None or isinstance(name, str)
    specs = _specs(data)
    objects = [
        ConfigObject(
            api_version="fuzz",
            kind=kind,
            name="o",
            namespace="shop",
            object={"metadata": {"name": "o", "namespace": "shop"}, "spec": spec},
        )
        for kind, spec in specs.items()
        if kind in KINDS
    ]
    program = Program(PLACE).changed(objects)
    for problem in program.problems:
        assert problem.field
        assert problem.reason
    for headers in ({}, {"x": "1", "origin": "a", "cookie": "a=b"}):
        decided = plan(request(target="/abc?d", headers=headers), program, STATE, TO, _draw, OWN)
        assert (decided.reply is None) is not (decided.upstream is None)
    program.stream_route(service(), 9080, "x.a", request().peer)


ODD = (None, "", 0, -1, 1.5, True, [], {}, ["x"], {"x": 1}, "5s", "(", "*", "%REQ(", 1 << 70)


def _specs(data):
    """The objects that bytes are; bytes that are none say which of ours is changed, and where."""
    try:
        specs = json.loads(data)
    except (ValueError, RecursionError):
        chance = random.Random(data)
        specs = json.loads(json.dumps(chance.choice(SPECS)))
        for _ in range(chance.randint(1, 4)):
            _change(specs, chance)
    return specs if isinstance(specs, dict) else {}


def _change(node, chance):
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = chance.choice(keys)
        if not isinstance(node[key], dict | list) or chance.random() < 0.2:
            node[key] = chance.choice(ODD)
            return
        node = node[key]


def _draw():
    return 0.0
