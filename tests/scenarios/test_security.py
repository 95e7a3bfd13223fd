"""What guides of service meshes do with tokens, policies and authorizers."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.scenarios.mesh import Mesh, until

ISSUER = "https://issuer.example"
DETAILS = "http://details:9080/details/0"
RATINGS = "http://ratings:9080/ratings/0"
REVIEWS = "http://reviews:9080/reviews/0"
KEYS = "http://issuer.tools:8000/keys"
DENIED = "RBAC: access denied 403"


def key(name: str) -> ec.EllipticCurvePrivateKey:
    """Keys whose secret everybody knows: that of ``one`` is 1, and so on."""
    return ec.derive_private_key(("one", "two").index(name) + 1, ec.SECP256R1())


def key_set(*names: str) -> str:
    encode = jwt.algorithms.ECAlgorithm.to_jwk
    keys = [json.loads(encode(key(name).public_key())) | {"kid": name} for name in names]
    return json.dumps({"keys": keys})


def token(signed_by: str = "one", **claims: Any) -> str:
    stated = {"iss": ISSUER, "sub": "ann", "aud": "shop", "exp": time.time() + 600, **claims}
    return jwt.encode(stated, key(signed_by), "ES256", {"kid": signed_by})


def bearer(*arguments: str, **claims: Any) -> tuple[str, str]:
    return "-H", f"authorization: Bearer {token(*arguments, **claims)}"


def test_a_token_is_required(stage: Mesh) -> None:
    with stage.applied("security/jwt-inline"):
        until(lambda: stage.curl(DETAILS) == [DENIED] and stage.status(DETAILS, *bearer()) == 200)
        for refused, said in (
            (bearer(exp=time.time() - 600), "Jwt is expired 401"),
            (bearer(iss="https://elsewhere"), "Jwt issuer is not configured 401"),
            (bearer(aud="bank"), "Audiences in Jwt are not allowed 403"),
            (bearer("two"), "Jwks doesn't have key to match kid or alg from Jwt 401"),
            (("-H", "authorization: Bearer x.y.z"), "Jwt header is an invalid Base64url encoded"),
        ):
            assert stage.curl(DETAILS, *refused)[0].startswith(said)
        # The product page hands its caller's token on.
        page = "http://productpage:9080/productpage"
        assert stage.json(page, *bearer())["details"]["title"] == "The Comedy of Errors"
        assert stage.json(page)["details"]["status"] == 403


def test_keys_are_fetched_and_follow_their_rotation(stage: Mesh) -> None:
    def put(*names: str) -> None:
        assert stage.status(KEYS, "-X", "PUT", "-d", key_set(*names)) == 200

    def shown(signed_by: str) -> tuple[str, str]:
        return "-H", f"x-token: Token {token(signed_by)}"

    put("one")
    with stage.applied("security/jwt-fetched"):
        until(lambda: stage.status(RATINGS, *shown("one")) == 200 and stage.status(RATINGS) == 403)
        assert stage.status(f"{RATINGS}?token={token()}") == 200
        assert stage.status(RATINGS, *shown("two")) == 401
        # A token with an unknown key makes the waypoint look again, at most every five seconds.
        put("one", "two")
        until(lambda: stage.status(RATINGS, *shown("two")) == 200)
        assert stage.status(RATINGS, *shown("one")) == 200


def test_claims_decide_and_reach_the_application(stage: Mesh) -> None:
    reader = bearer(realm={"roles": ["reader"], "tier": "gold"})
    editor = bearer(realm={"roles": ["editor", "author"]})
    written = ("-d", '{"text": "claimed"}')
    with stage.applied("security/claims"):
        until(lambda: stage.status(REVIEWS) == 403 and stage.status(REVIEWS, *reader) == 200)
        assert stage.status(REVIEWS, *reader, *written) == 403
        assert stage.status(REVIEWS, *editor, *written) == 200
        assert stage.status(REVIEWS, *bearer(realm="reader")) == 403
        headers = stage.headers("reviews", *reader, "-H", "x-user: root", "-H", "x-payload: e30")
        assert headers["x-user"] == "ann"
        assert headers["x-first-role"] == "gold"
        assert headers["authorization"].startswith("Bearer ")
        assert jwt.utils.base64url_decode(headers["x-payload"]).startswith(b'{"iss"')


def test_claims_choose_the_route(stage: Mesh) -> None:
    tester = bearer(realm={"roles": ["reader"], "tier": "tester"})
    gold = bearer(realm={"roles": ["reader"], "tier": "gold"})
    with stage.applied("traffic/subsets", "security/claims", "security/claim-routing"):
        until(lambda: stage.status(REVIEWS) == 403)
        until(lambda: stage.versions(*tester, times=6) == {"v3": 6})
        assert stage.versions(*gold, times=6) == {"v1": 6}


def test_nothing_is_allowed_but_what_is_said(mesh: Mesh) -> None:
    page = "http://productpage:9080/productpage"
    with mesh.applied("security/default-deny"):
        until(lambda: mesh.curl(REVIEWS) == [DENIED])
        until(lambda: "The Comedy of Errors" in mesh.curl(page)[0])
        assert mesh.status("http://productpage:9080/headers") == 403
        assert mesh.status(page, "-X", "POST") == 403
        assert mesh.status(DETAILS) == 403
        found = mesh.json(page)
        assert found["reviews"]["status"] == 403


def test_paths_and_methods_are_allowed_one_by_one(mesh: Mesh) -> None:
    written = ("-d", '{"text": "by hand"}')
    secret = "http://reviews:9080/reviews/secret"
    with mesh.applied("security/paths-and-methods"):
        until(lambda: mesh.status("http://reviews:9080/health") == 403)
        until(lambda: mesh.status(secret) == 403)
        assert mesh.status(REVIEWS) == 200
        assert mesh.status(REVIEWS, *written) == 403
        assert mesh.status(REVIEWS, *written, pod="ratings") == 200
        assert mesh.status("http://reviews:9080/reviews/a/b") == 403
        assert mesh.status(secret, "-H", "x-key: open-sesame") == 200
        # What a policy compares is what the application gets.
        plain = ("--path-as-is",)
        assert mesh.status("http://reviews:9080/reviews/x/../secret", *plain) == 403
        assert mesh.status("http://reviews:9080/reviews/%73ecret", *plain) == 403


def test_an_authorizer_is_asked_by_grpc(stage: Mesh) -> None:
    allowed = ("-H", "x-ext-authz: allow")
    with stage.applied("security/custom-grpc"):
        until(lambda: stage.status(DETAILS) == 403)
        until(lambda: stage.status(DETAILS, *allowed, "-H", "x-team: red") == 403)
        headers, body = stage.answer(DETAILS)
        assert body.startswith("denied by the authorizer")
        assert headers["x-ext-authz-check-result"] == "denied"
        headers = stage.headers("details", *allowed, "-H", "x-secret: 1")
        assert headers["x-ext-authz-check-result"] == "allowed"
        client = "spiffe://cluster.local/ns/bookinfo/sa/client"
        assert headers["x-ext-authz-check-received"] == f"GET /headers from {client}"
        assert "x-secret" not in headers
        assert stage.answer(DETAILS, *allowed)[0]["x-decided-by"] == "grpc"
        assert stage.status("http://details:9080/health") == 200


def test_an_authorizer_is_asked_by_http(stage: Mesh) -> None:
    url = "http://ratings:9080/headers"
    with stage.applied("security/custom-http"):
        until(lambda: stage.status(url) == 403)
        headers, body = stage.answer(url)
        assert body.startswith("denied by the authorizer")
        assert headers["x-ext-authz-check-result"] == "denied"
        headers = stage.headers("ratings", "-H", "x-ext-authz: allow", "-d", "some-words")
        assert headers["x-ext-authz-check-received"] == "POST /check/headers some-words"
        assert stage.status(RATINGS) == 200


def test_routes_have_authorizers_of_their_own(stage: Mesh) -> None:
    url, allowed = "http://ratings:9080/headers", ("-H", "x-ext-authz: allow")
    received = "x-ext-authz-check-received"
    with stage.applied("security/external-auth"):
        until(lambda: stage.status(url) == 403)
        headers, body = stage.answer(url)
        assert body.startswith("denied by the authorizer")
        assert headers["x-ext-authz-check-result"] == "denied"
        asked = stage.headers("ratings", *allowed)
        assert asked[received] == "GET /route/headers"
        assert "x-ext-authz-check-result" not in asked
        client = "spiffe://cluster.local/ns/bookinfo/sa/client"
        asked = stage.headers("ratings", *allowed, "-d", "some-words")
        assert asked[received] == f"POST /headers from {client}"
        assert stage.status(RATINGS) == 200


def test_audit_and_dry_run_refuse_nothing(mesh: Mesh) -> None:
    mark = f"mark-{time.monotonic_ns()}"

    def log_of_a_request() -> list[str]:
        assert mesh.status(RATINGS, "-H", f"x-request-id: {mark}") == 200
        return [line for line in mesh.logs().splitlines() if mark in line]

    with mesh.applied("security/audit-and-dry-run"):
        until(lambda: any("policy[ratings-audit]" in line for line in log_of_a_request()))
        until(lambda: any("bookinfo/ratings-trial" in line for line in log_of_a_request()))
    counted = mesh.inside("curl", "-s", "http://localhost:15020/stats/prometheus", pod="waypoint")
    assert 'ambient_policy_dry_run_denials_total{policy="bookinfo/ratings-trial"}' in counted
