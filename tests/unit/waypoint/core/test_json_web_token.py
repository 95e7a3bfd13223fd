"""Tokens and keys: what verifies, and Envoy's sentence for everything else."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.json_web_token import KeySet, TokenError, audience_form, read_keys, read_token

RSA = rsa.generate_private_key(65537, 2048)
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
EC = {name: ec.generate_private_key(curve) for name, curve in CURVES.items()}
ED = ed25519.Ed25519PrivateKey.generate()
SECRET = b"s" * 64
ALGORITHMS = (
    *(f"{family}{bits}" for family in ("RS", "PS", "HS") for bits in (256, 384, 512)),
    *CURVES,
    "EdDSA",
)


def private(algorithm):
    if algorithm.startswith("HS"):
        return SECRET
    return EC.get(algorithm) or (ED if algorithm == "EdDSA" else RSA)


def jwk(algorithm, **changes):
    family = jwt.get_algorithm_by_name(algorithm)
    key = private(algorithm)
    public = key if isinstance(key, bytes) else key.public_key()
    return {**json.loads(family.to_jwk(public)), **changes}


def key_set(*found):
    return read_keys(json.dumps({"keys": found}))


def token(algorithm="RS256", payload=None, key=None, **header):
    claims = {"iss": "me", "sub": "alice"} if payload is None else payload
    return jwt.encode(claims, key or private(algorithm), algorithm, headers=header)


def part(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("named", [True, False])
def test_every_algorithm_verifies(algorithm, named):
    key = jwk(algorithm, kid="k", **({"alg": algorithm} if named else {}))
    key_set(key).verify(read_token(token(algorithm, kid="k")))
    key_set(key).verify(read_token(token(algorithm)))  # without a name every key is tried


@pytest.mark.parametrize(
    ("keys", "signed", "error"),
    [
        ([jwk("RS256", kid="other")], token(kid="k"), "Jwks doesn't have key to match kid or alg"),
        ([jwk("RS256", alg="RS512")], token(), "Jwks doesn't have key to match kid or alg"),
        ([jwk("ES256")], token(), "Jwks doesn't have key to match kid or alg from Jwt"),
        ([jwk("EdDSA")], token(), "Jwt verification fails"),
        ([], token(), "Jwks doesn't have any valid public key"),
        ([{"kty": "RSA", "n": "!", "e": "AQAB"}], token(), "Jwks doesn't have any valid"),
        ([{"kty": "EC", "crv": "P-256", "x": "", "y": ""}], token("ES256"), "Jwks doesn't have"),
        ([jwk("ES256", alg="ES384")], token("ES256"), "Jwks doesn't have any valid public key"),
        ([jwk("RS256", alg="HS256")], token("HS256"), "Jwks doesn't have any valid public key"),
    ],
)
def test_keys_that_do_not_fit(keys, signed, error):
    with pytest.raises(TokenError, match=error):
        key_set(*keys).verify(read_token(signed))


def test_a_public_key_is_no_shared_secret():
    pem = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head, body = part({"alg": "HS256"}), part({"iss": "me"})
    import hashlib
    import hmac

    signature = hmac.new(pem, f"{head}.{body}".encode(), hashlib.sha256).digest()
    forged = f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    with pytest.raises(TokenError, match="Jwt verification fails"):
        key_set(jwk("RS256")).verify(read_token(forged))


def test_a_changed_payload_or_signature_does_not_verify():
    head, _, signature = token().split(".")
    for forged in (f"{head}.{part({'iss': 'you'})}.{signature}", token()[:-8] + "AAAAAAAA"):
        with pytest.raises(TokenError, match="Jwt verification fails"):
            key_set(jwk("RS256")).verify(read_token(forged))


TWICE = '{"a":{"iss":"one","iss":"two"}}'
OK_HEAD = part({"alg": "RS256"})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"),
        ("a.b", "Jwt is not in the form"),
        ("a.b.c.d", "Jwt is not in the form"),
        ("a..c", "Jwt is not in the form"),
        ("$.b.c", "Jwt header is an invalid Base64url encoded"),
        ("a+/b.b.c", "Jwt header is an invalid Base64url encoded"),
        (f"{part('no')}.b.c", "Jwt header is an invalid JSON"),
        (f"{part('[]')}.b.c", "Jwt header is an invalid JSON"),
        (f"{part('{}')}.b.c", "Jwt header [alg] field is required and must be a string"),
        (f"{part({'alg': 1})}.b.c", "Jwt header [alg] field is required and must be a string"),
        (f"{part({'alg': 'none'})}.b.c", "Jwt header [alg] is not supported"),
        (f"{part({'alg': 'ES256K'})}.b.c", "Jwt header [alg] is not supported"),
        (f"{part({'alg': 'RS256', 'kid': 1})}.b.c", "Jwt header [kid] field is not a string"),
        (f"{OK_HEAD}.$.c", "Jwt payload is an invalid Base64url encoded"),
        (f"{OK_HEAD}.{part('[')}.c", "Jwt payload is an invalid JSON"),
        (f"{OK_HEAD}.{part(TWICE)}.c", "Jwt payload is an invalid JSON"),
        (f"{OK_HEAD}.{part({'iss': 1})}.c", "Jwt payload [iss] field is not a string"),
        (f"{OK_HEAD}.{part({'sub': []})}.c", "Jwt payload [sub] field is not a string"),
        (f"{OK_HEAD}.{part({'exp': 'x'})}.c", "Jwt payload [exp] field is not an integer"),
        (
            f"{OK_HEAD}.{part({'nbf': -1})}.c",
            "Jwt payload [nbf] field is not a positive 64 bit integer",
        ),
        (
            f"{OK_HEAD}.{part({'aud': 1})}.c",
            "Jwt payload [aud] field is not a string or string list",
        ),
        (f"{OK_HEAD}.{part({})}.$", "Jwt signature is an invalid Base64url encoded"),
        ("a" * 70000 + ".b.c", "Jwt is not in the form"),
        (f"{OK_HEAD}.{part('[' * 30000)}.c", "Jwt payload is an invalid JSON"),
    ],
)
def test_tokens_that_cannot_be_read(text, error):
    with pytest.raises(TokenError) as refused:
        read_token(text)
    assert str(refused.value).startswith(error)


@pytest.mark.parametrize(
    ("claims", "now", "error"),
    [
        ({"exp": 100}, 160, ""),
        ({"exp": 100}, 161, "Jwt is expired"),
        ({"nbf": 200}, 140, ""),
        ({"nbf": 200}, 139, "Jwt not yet valid"),
        ({}, 1e12, ""),
    ],
)
def test_time_has_a_minute_of_tolerance(claims, now, error):
    found = read_token(token(payload=claims))
    if error:
        with pytest.raises(TokenError, match=error):
            found.check_time(now)
    else:
        found.check_time(now)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "Jwks is an invalid JSON"),
        ("[]", "Jwks does not have [keys] field"),
        ("{}", "Jwks does not have [keys] field"),
        ('{"keys": 1}', "[keys] in Jwks is not an array"),
        ('{"keys": [1, {}, {"kty": 1}]}', "Jwks doesn't have any valid public key"),
    ],
)
def test_key_sets_that_cannot_be_read(text, error):
    assert read_keys(text) == KeySet(error=error)


def test_one_bad_key_does_not_spoil_the_others():
    read = key_set({"kty": "RSA"}, jwk("RS256"))
    assert len(read.keys) == 1


@pytest.mark.parametrize(
    "text", ["https://api.shop/", "http://api.shop", "api.shop/", "https://api.shop"]
)
def test_audiences_compare_without_scheme_and_slash(text):
    assert audience_form(text) == "api.shop"


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    for made in (text, f"{OK_HEAD}.{text}.c", f"{text}.{text}.{text}"):
        with suppress(TokenError):
            read_token(made)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
members = st.sampled_from(["kty", "alg", "kid", "n", "e", "x", "y", "k", "crv"])


@given(st.lists(st.dictionaries(members, json_values | st.sampled_from(["RSA", "EC", "oct"]))))
def test_any_key_set_is_read(found):
    read_keys(json.dumps({"keys": found}))
