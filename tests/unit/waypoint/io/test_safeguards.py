"""Authorizers and tokens in front of real requests through a waypoint."""

from __future__ import annotations

import json
import time

import h2.config
import h2.connection
import h2.events
import h11
import pytest
import trio
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import struct_pb2

from ambient.api.service import AppProtocol, NamespacedHostname, Port
from ambient.api.type_urls import ADDRESS_TYPE
from ambient.api.workload import TunnelProtocol
from tests.unit.waypoint.io.rig import read_request, rig
from tests.unit.waypoint.sample import config, policy, service, workload
from tests.unit.waypoint.tokens import jwks, token

TARGETS = [{"kind": "Service", "group": "", "name": "reviews"}]
AUTHZ_AT = "127.0.1.20"


def authz_service(protocol=AppProtocol.HTTP11):
    port = Port(9000, 9000, protocol)
    host = NamespacedHostname("shop", "authz.shop.svc.cluster.local")
    return (
        service("authz", "10.96.0.20", ports=(port,), waypoint=None),
        workload("authz", AUTHZ_AT, "v1", of="authz", services={host: (port,)},
                 tunnel_protocol=TunnelProtocol.NONE),
    )  # fmt: skip


def register(made, *things):
    names = [getattr(one, "uid", None) or str(one.key) for one in things]
    made.state.apply(ADDRESS_TYPE, dict(zip(names, things, strict=True)))


def mesh(kind="envoyExtAuthzHttp", **more):
    spec = {"service": "authz.shop.svc.cluster.local", "port": 9000, **more}
    return config("MeshConfig", "istio", {"extensionProviders": [{"name": "b", kind: spec}]})


CUSTOM = policy([{}], "CUSTOM", provider={"name": "b"})


def http_authorizer(answer, seen):
    """``answer``: status, headers and body for a request head."""

    async def app(stream):
        http = h11.Connection(h11.SERVER)
        while True:
            request, body, _ = await read_request(http, stream)
            if request is None:
                return
            seen.append((request, body))
            status, headers, content = answer(request)
            fields = [*headers, ("content-length", str(len(content)))]
            wire = http.send(h11.Response(status_code=status, headers=fields))
            if request.method != b"HEAD":
                wire += http.send(h11.Data(data=content))
            await stream.send_all(wire + (http.send(h11.EndOfMessage()) or b""))
            http.start_next_cycle()

    return app


async def test_an_http_authorizer_lets_pass_and_edits():
    seen = []
    asked = {
        "includeRequestHeadersInCheck": ["x-ask*"],
        "includeAdditionalHeadersInCheck": {"x-from": "mesh"},
        "headersToUpstreamOnAllow": ["x-user"],
        "headersToDownstreamOnAllow": ["x-told", "set-cookie"],
        "pathPrefix": "/check",
    }

    def answer(request):
        cookies = [("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2")]
        return 200, [("x-user", "alice"), ("x-told", "1"), ("x-secret", "s"), *cookies], b""

    async with rig() as made:
        register(made, *authz_service())
        await made.app(AUTHZ_AT, http_authorizer(answer, seen), 9000)
        made.configure(mesh(**asked), CUSTOM)
        caller = await made.caller()
        got = await caller.get("/a?b=c", x_ask_me="1", x_user="forged", x_other="2")
    request, _ = seen[0]
    sent = {name.decode(): value.decode() for name, value in request.headers}
    assert (request.method, request.target) == (b"GET", b"/check/a?b=c")
    assert sent["host"] == "reviews:9080"
    assert (sent["x-ask-me"], sent["x-from"]) == ("1", "mesh")
    assert "x-other" not in sent
    assert got.status == 200
    assert got.json["headers"]["x-user"] == "alice"
    assert "x-secret" not in got.json["headers"]
    assert (got.headers["x-told"], "x-secret" in got.headers) == ("1", False)
    assert got.headers["set-cookie"] == "b=2"  # the last of two lines


async def test_an_http_authorizer_refuses_in_its_own_words():
    def answer(request):
        return 401, [("x-why", "none"), ("x-secret", "s"), ("location", "/login")], b"who are you?"

    async with rig() as made:
        register(made, *authz_service())
        await made.app(AUTHZ_AT, http_authorizer(answer, []), 9000)
        made.configure(mesh(headersToDownstreamOnDeny=["x-why"]), CUSTOM)
        caller = await made.caller()
        got = await caller.get()
        assert (got.status, got.body) == (401, b"who are you?")
        assert (got.headers["x-why"], got.headers["location"]) == ("none", "/login")
        assert "x-secret" not in got.headers
        assert not made.calls["127.0.1.1"] + made.calls["127.0.1.2"]


@pytest.mark.parametrize(
    ("more", "status"),
    [({}, 403), ({"statusOnError": "503"}, 503), ({"failOpen": True}, 200)],
)
async def test_an_authorizer_that_fails(more, status):
    async with rig() as made:
        register(made, *authz_service())  # nobody listens there
        made.configure(mesh(**more), CUSTOM)
        assert (await (await made.caller()).get()).status == status


async def test_an_authorizer_that_is_slow_fails():
    async def app(stream):
        await trio.sleep_forever()

    async with rig() as made:
        register(made, *authz_service())
        await made.app(AUTHZ_AT, app, 9000)
        made.configure(mesh(timeout="0.1s"), CUSTOM)
        assert (await (await made.caller()).get()).status == 403


@pytest.mark.parametrize(
    ("size", "partial", "status", "asked"),
    [(100, False, 200, 100), (5000, True, 200, 1000), (5000, False, 413, None),
     (300_000, True, 200, 1000)],
)  # fmt: skip
async def test_bodies_in_checks_reach_the_application_too(size, partial, status, asked):
    seen = []
    wanted = {"maxRequestBytes": 1000, "allowPartialMessage": partial}
    async with rig() as made:
        register(made, *authz_service())
        authorizer = http_authorizer(lambda request: (200, [], b""), seen)
        await made.app(AUTHZ_AT, authorizer, 9000)
        made.configure(mesh(includeRequestBodyInCheck=wanted), CUSTOM)
        caller = await made.caller()
        got = await caller.get("/", "POST", body=b"x" * size)
        assert got.status == status
        if status == 200:
            assert got.json["size"] == size
            request, body = seen[0]
            partly = dict(request.headers)[b"x-envoy-auth-partial-body"]
            assert (len(body), partly) == (asked, b"true" if size > 1000 else b"false")
        else:
            assert seen == []


def grpc_server(answer, seen):
    """A gRPC server of unary methods: ``answer`` takes path and message."""

    async def app(stream):
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.initiate_connection()
        await stream.send_all(http.data_to_send())
        bodies, paths = {}, {}
        while data := await stream.receive_some():
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    paths[event.stream_id] = dict(event.headers)[b":path"].decode()
                    bodies[event.stream_id] = b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    seen.append((paths[event.stream_id], bodies[event.stream_id][5:]))
                    status, reply = answer(*seen[-1])
                    head = [(":status", "200"), ("content-type", "application/grpc")]
                    http.send_headers(event.stream_id, head)
                    if reply is not None:
                        framed = b"\0" + len(reply).to_bytes(4, "big") + reply
                        http.send_data(event.stream_id, framed)
                    trailers = [("grpc-status", str(status))]
                    http.send_headers(event.stream_id, trailers, end_stream=True)
            await stream.send_all(http.data_to_send())

    return app


async def ask_by_grpc(response, request=None, status=0, **more):
    seen = []
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        raw = response.SerializeToString() if response is not None else None
        await made.app(AUTHZ_AT, grpc_server(lambda path, message: (status, raw), seen), 9000)
        rules = more.pop("policies", ())
        made.configure(mesh("envoyExtAuthzGrpc", **more), CUSTOM, *rules)
        caller = await made.caller()
        got = await caller.get("/a?x=1&y=2", **(request or {}))
    return got, [(path, external_auth_pb2.CheckRequest.FromString(raw)) for path, raw in seen]


async def test_a_grpc_authorizer_lets_pass_and_edits():
    response = external_auth_pb2.CheckResponse()
    ok = response.ok_response
    user = ok.headers.add()
    user.header.key, user.header.value = "X-User", "al"
    added = ok.headers.add()
    added.header.key, added.header.value, added.append.value = "x-list", "b", True
    ok.headers_to_remove.append("x-gone")
    told = ok.response_headers_to_add.add()
    told.header.key, told.header.value = "x-told", "1"
    ok.query_parameters_to_remove.append("x")
    response.dynamic_metadata.MergeFrom(
        struct_pb2.Struct(fields={"tier": struct_pb2.Value(string_value="gold")})
    )
    key = "experimental.envoy.filters.http.ext_authz[tier]"
    gold = policy([{"when": [{"key": key, "values": ["gold"]}]}], name="gold")
    got, seen = await ask_by_grpc(response, {"x_list": "a", "x_gone": "1"}, policies=[gold])
    assert got.status == 200
    headers = got.json["headers"]
    assert (headers["x-user"], "x-gone" in headers) == ("al", False)
    assert (got.json["target"], got.headers["x-told"]) == ("/a?y=2", "1")
    path, check = seen[0]
    assert path == "/envoy.service.auth.v3.Authorization/Check"
    http = check.attributes.request.http
    assert (http.method, http.path, http.host) == ("GET", "/a?x=1&y=2", "reviews:9080")
    assert http.headers["x-list"] == "a"
    assert check.attributes.source.principal == "spiffe://cluster.local/ns/shop/sa/curl"
    assert check.attributes.destination.address.socket_address.port_value == 9080


async def test_a_grpc_authorizer_refuses_in_its_own_words():
    response = external_auth_pb2.CheckResponse()
    response.status.code = 7
    response.denied_response.status.code = 418
    response.denied_response.body = "short and stout"
    header = response.denied_response.headers.add()
    header.header.key, header.header.value = "x-why", "tea"
    got, _ = await ask_by_grpc(response)
    assert (got.status, got.body, got.headers["x-why"]) == (418, b"short and stout", "tea")


@pytest.mark.parametrize(("fail_open", "status"), [(False, 403), (True, 200)])
async def test_a_grpc_authorizer_that_fails(fail_open, status):
    got, _ = await ask_by_grpc(None, status=13, failOpen=fail_open)
    assert got.status == status


def bearer(key="one", **claims):
    return {"authorization": f"Bearer {token('https://idp', key, **claims)}"}


def tokens(**rule):
    given = {"issuer": "https://idp", **rule}
    return config("RequestAuthentication", "jwt", {"targetRefs": TARGETS, "jwtRules": [given]})


ONLY_ALICE = policy([{"from": [{"source": {"requestPrincipals": ["https://idp/alice"]}}]}])


def asking(protocol="HTTP", *, port=9000, name="authz", more=(), **spec):
    """An HTTPRoute whose one rule asks an authorizer about everything under /private."""
    backend = {"name": name, "port": port}
    auth = {"protocol": protocol, "backendRef": backend, **spec}
    filters = [{"type": "ExternalAuth", "externalAuth": auth}, *more]
    to = [{"name": "reviews", "port": 9080}]
    path = [{"path": {"type": "PathPrefix", "value": "/private"}}]
    rules = [
        {"matches": path, "filters": filters, "backendRefs": to},
        {"backendRefs": to},
    ]
    parents = [{"group": "", "kind": "Service", "name": "reviews"}]
    return config("HTTPRoute", "r", {"parentRefs": parents, "rules": rules})


async def test_a_route_asks_an_authorizer_of_its_own():
    seen = []

    def answer(request):
        if b"deny" in request.target:
            return 401, [("x-why", "none")], b"who are you?"
        return 200, [("x-user", "alice"), ("content-type", "text/plain")], b""

    edits = {"set": [{"name": "x-route", "value": "1"}]}
    modifier = {"type": "RequestHeaderModifier", "requestHeaderModifier": edits}
    cors = {"type": "CORS", "cors": {"allowOrigins": ["http://a"], "allowMethods": ["GET"]}}
    http = {"path": "/check", "allowedHeaders": ["X-Ask"]}
    made_of = asking(http=http, forwardBody={"maxSize": 10}, more=(modifier, cors))
    async with rig() as made:
        register(made, *authz_service())
        await made.app(AUTHZ_AT, http_authorizer(answer, seen), 9000)
        made.configure(made_of)
        caller = await made.caller()
        sent = {"x_ask": "1", "x_other": "2", "x_user": "forged", "content_type": "a/b"}
        got = await caller.get("/private/a?b", "POST", body=b"words", **sent)
        assert (got.status, got.json["headers"]["x-user"]) == (200, "alice")
        assert (got.json["headers"]["x-route"], got.json["size"]) == ("1", 5)
        assert got.json["headers"]["content-type"] == "a/b"  # the answer's is of the answer
        request, body = seen.pop()
        told = {name.decode(): value.decode() for name, value in request.headers}
        assert (request.target, body) == (b"/check/private/a?b", b"words")
        assert told["x-ask"] == "1"
        assert not {"x-other", "x-route"} & told.keys()
        refused = await caller.get("/private/deny")
        assert (refused.status, refused.body) == (401, b"who are you?")
        assert refused.headers["x-why"] == "none"
        assert (await caller.get("/private/a", "POST", body=b"x" * 11)).status == 413
        seen.clear()
        assert (await caller.get("/public")).status == 200
        preflight = {"origin": "http://a", "access_control_request_method": "GET"}
        assert (await caller.get("/private/deny", "OPTIONS", **preflight)).status == 200
        assert seen == []


async def test_what_policies_refuse_no_authorizer_of_a_route_is_asked():
    seen = []
    async with rig() as made:
        register(made, *authz_service())
        await made.app(AUTHZ_AT, http_authorizer(lambda request: (200, [], b""), seen), 9000)
        denied = policy([{"to": [{"operation": {"paths": ["/private/no"]}}]}], "DENY")
        made.configure(asking(http={"allowedResponseHeaders": ["x-user"]}), denied)
        caller = await made.caller()
        assert (await caller.get("/private/no")).status == 403
        assert seen == []
        assert (await caller.get("/private/yes")).status == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"name": "gone"}, 403),
        ({"port": 81}, 403),
        ({"port": None}, 500),
        ({"protocol": "FTP"}, 500),
        ({}, 403),  # nobody listens there
    ],
)
async def test_an_authorizer_of_a_route_that_is_not_there_refuses(changes, status):
    async with rig() as made:
        register(made, *authz_service())
        made.configure(asking(**changes))
        caller = await made.caller()
        assert (await caller.get("/private/a")).status == status
        assert (await caller.get("/public")).status == 200


async def test_a_grpc_authorizer_of_a_route_is_told_some_headers_only():
    seen = []
    answer = external_auth_pb2.CheckResponse()
    user = answer.ok_response.headers.add()
    user.header.key, user.header.value = "x-user", "alice"
    raw = answer.SerializeToString()
    async with rig() as made:
        register(made, *authz_service(AppProtocol.GRPC))
        await made.app(AUTHZ_AT, grpc_server(lambda path, message: (0, raw), seen), 9000)
        made.configure(asking("GRPC", grpc={"allowedHeaders": ["X-Ask"]}))
        caller = await made.caller()
        got = await caller.get("/private/a", x_ask="1", x_other="2")
    assert (got.status, got.json["headers"]["x-user"]) == (200, "alice")
    told = external_auth_pb2.CheckRequest.FromString(seen[0][1]).attributes.request.http.headers
    assert {name for name in told if not name.startswith(":")} == {"x-ask"}


async def test_a_token_is_verified_before_policy_asks_for_it():
    async with rig() as made:
        made.configure(tokens(jwks=jwks("one")), ONLY_ALICE)
        caller = await made.caller()
        assert (await caller.get(**bearer())).status == 200
        assert (await caller.get()).status == 403
        assert (await caller.get(**bearer(sub="bob"))).status == 403
        expired = await caller.get(**bearer(exp=int(time.time()) - 100))
        assert (expired.status, expired.body) == (401, b"Jwt is expired")
        assert expired.headers["www-authenticate"] == (
            'Bearer realm="http://reviews:9080/", error="invalid_token"'
        )


def issuer(served, seen):
    def answer(request):
        path = request.target.decode()
        seen.append(path)
        return served.get(path, (404, [], b""))

    return http_authorizer(answer, [])


async def fetching(made, served, seen, **rule):
    """An issuer as a service of the mesh, at authz.shop:9000."""
    register(made, *authz_service())
    await made.app(AUTHZ_AT, issuer(served, seen), 9000)
    made.configure(tokens(**rule), ONLY_ALICE)


ISSUER = "http://authz.shop.svc.cluster.local:9000"


async def test_keys_are_fetched_through_the_mesh_once():
    seen = []
    async with rig() as made:
        await fetching(
            made, {"/jwks": (200, [], jwks("one").encode())}, seen, jwksUri=f"{ISSUER}/jwks"
        )
        caller = await made.caller()
        for _ in range(3):
            assert (await caller.get(**bearer())).status == 200
    assert seen == ["/jwks"]


async def test_keys_are_found_by_the_issuers_metadata():
    where = {"jwks_uri": f"{ISSUER}/keys"}
    served = {
        "/.well-known/openid-configuration": (200, [], json.dumps(where).encode()),
        "/keys": (200, [], jwks("one").encode()),
    }
    async with rig() as made:
        await fetching(made, served, [], issuer=ISSUER)
        caller = await made.caller()
        made.configure(tokens(issuer=ISSUER))
        assert (await caller.get(**bearer(iss=ISSUER))).status == 200


async def test_a_rotated_key_is_fetched_when_a_token_names_it(monkeypatch):
    monkeypatch.setattr("waypoint.core.key_freshness.ROTATION_S", 0.0)
    served = {"/jwks": (200, [], jwks("one").encode())}
    async with rig() as made:
        await fetching(made, served, [], jwksUri=f"{ISSUER}/jwks")
        caller = await made.caller()
        assert (await caller.get(**bearer())).status == 200
        served["/jwks"] = (200, [], jwks("two").encode())
        assert (await caller.get(**bearer("two"))).status == 200
        assert (await caller.get(**bearer())).status == 401
        served["/jwks"] = (500, [], b"")  # an outage leaves the keys that there were
        assert (await caller.get(**bearer())).status == 401
        assert (await caller.get(**bearer("two"))).status == 200


async def test_an_issuer_that_is_down_refuses_tokens_and_nothing_else():
    async with rig() as made:
        await fetching(made, {}, [], jwksUri=f"{ISSUER}/jwks")
        made.configure(tokens(jwksUri=f"{ISSUER}/jwks"))
        caller = await made.caller()
        refused = await caller.get(**bearer())
        assert (refused.status, refused.body) == (401, b"Jwks remote fetch is failed")
        assert (await caller.get()).status == 200
