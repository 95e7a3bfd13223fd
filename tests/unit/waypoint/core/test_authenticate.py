"""Whose request it is: places of tokens, several issuers, answers, and what the app receives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.waypoint.sample import config, program, request, service
from tests.unit.waypoint.tokens import jwks, token
from waypoint.core import json_web_token
from waypoint.core.authenticate import accept, judge, may_carry_token, refusal, wanted
from waypoint.core.json_web_token import KeySet, read_keys
from waypoint.core.request_authentication import KeySource

NOW = 1_000_000
TARGETS = [{"kind": "Service", "group": "", "name": "reviews"}]


def rule(issuer="one", **more):
    return {"issuer": issuer, "jwks": jwks(issuer), **more}


def authentication(*rules, name="jwt", **spec):
    given_ = {"targetRefs": TARGETS, "jwtRules": list(rules), **spec}
    return config("RequestAuthentication", name, given_)


def no_keys(source: KeySource) -> KeySet | None:
    return None


def outcome(objects, headers=None, target="/", keys=no_keys, **facts) -> Any:
    """The error, and the request as the application would get it."""
    rules = program(*objects).guards.authentication(service())
    asked = request(target=target, headers=headers or {}, **facts)
    judged = judge(rules, asked, keys, NOW)
    if not judged.error:
        accept(rules, judged, asked)
    return judged.error, asked


def bearer(text):
    return {"authorization": f"Bearer {text}"}


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, ""),
        ({"authorization": "Basic Zm9v"}, ""),  # not a token's place
        (bearer(token()), ""),
        (bearer("x"), "Jwt is not in the form of Header.Payload.Signature with two dots"),
        ({"authorization": "Bearer "}, "Jwt is not in the form"),
        (bearer(token("three", "one")), "Jwt issuer is not configured"),
        (bearer(token(key="two")), "Jwks doesn't have key to match kid or alg from Jwt"),
        (bearer(token(exp=NOW - 61)), "Jwt is expired"),
        (bearer(token(nbf=NOW + 61)), "Jwt not yet valid"),
        (bearer(token(exp=NOW - 60, nbf=NOW + 60)), ""),
    ],
)
def test_one_issuer(headers, error):
    said, _ = outcome([authentication(rule())], headers)
    assert said.startswith(error)
    assert bool(said) is bool(error)


TWO = [authentication(rule("one"), rule("two"))]


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, ""),
        (bearer(token("one")), ""),
        (bearer(token("two")), ""),
        (bearer(token("three", "one")), "Jwt issuer is not configured"),
        (bearer(token("one", exp=1)), "Jwt is expired"),  # says more than "unknown issuer"
        (bearer(token("one", "two")), "Jwks doesn't have key to match kid or alg from Jwt"),
    ],
)
def test_several_issuers_share_a_place(headers, error):
    assert outcome(TWO, headers)[0] == error


def test_rules_of_several_policies_are_one_set():
    apart = [authentication(rule("one")), authentication(rule("two"), name="more")]
    assert outcome(apart, bearer(token("two")))[0] == ""
    assert outcome([authentication(rule("one"))], bearer(token("two")))[0] != ""


def test_only_policies_with_targets_hold():
    assert outcome([authentication(rule(), targetRefs=[])], bearer("x"))[0] == ""
    selected = authentication(rule(), targetRefs=[], selector={"matchLabels": {"app": "reviews"}})
    assert outcome([selected], bearer("x"))[0] == ""


@pytest.mark.parametrize(
    ("places", "headers", "target", "subject", "left"),
    [
        ({}, bearer(token()), "/", "alice", "/"),
        ({}, {}, f"/p?a=1&access_token={token()}&b=%20", "alice", "/p?a=1&b=%20"),
        ({}, {}, f"/p?access_token={token()}", "alice", "/p"),
        ({"fromHeaders": [{"name": "X-Jwt"}]}, {"x-jwt": token()}, "/", "alice", "/"),
        ({"fromHeaders": [{"name": "X-Jwt", "prefix": "jwt "}]}, {"x-jwt": f"jwt {token()}"}, "/",
         "alice", "/"),
        ({"fromHeaders": [{"name": "X-Jwt", "prefix": "jwt "}]}, {"x-jwt": token()}, "/", None,
         "/"),
        ({"fromHeaders": [{"name": "X-Jwt"}]}, bearer("junk"), "/", None, "/"),
        ({"fromParams": ["t"]}, {}, f"/?t={token()}", "alice", "/"),
        ({"fromCookies": ["session"]}, {"cookie": f"a=b; session={token()}"}, "/", "alice", "/"),
    ],
)  # fmt: skip
def test_places_of_tokens(places, headers, target, subject, left):
    error, asked = outcome([authentication(rule(**places))], headers, target)
    assert error == ""
    assert (asked.claims or {}).get("sub") == subject
    assert asked.target == left
    if subject and not places.get("fromCookies"):
        assert not {"authorization", "x-jwt"} & {name for name, _ in asked.headers}


def test_a_token_that_is_wanted_stays():
    _, asked = outcome([authentication(rule(forwardOriginalToken=True))], bearer(token()))
    assert asked.headers.get("authorization") == f"Bearer {token()}"


def test_all_tokens_of_a_rule_have_to_be_good():
    both = {**bearer(token()), "x-jwt": "junk"}
    places = {"fromHeaders": [{"name": "Authorization", "prefix": "Bearer "}, {"name": "x-jwt"}]}
    assert outcome([authentication(rule(**places))], both)[0].startswith("Jwt is not in the form")


@pytest.mark.parametrize(
    ("audiences", "claim", "error"),
    [
        ([], None, ""),
        (["shop"], ["bank", "shop"], ""),
        (["https://shop/"], "shop", ""),
        (["shop"], "bank", "Audiences in Jwt are not allowed"),
        (["shop"], None, "Audiences in Jwt are not allowed"),
    ],
)
def test_audiences(audiences, claim, error):
    said = {} if claim is None else {"aud": claim}
    found, _ = outcome([authentication(rule(audiences=audiences))], bearer(token(**said)))
    assert found == error


def test_what_the_application_receives():
    outputs = rule(
        outputPayloadToHeader="X-Payload",
        outputClaimToHeaders=[
            {"header": "x-user", "claim": "sub"},
            {"header": "x-tier", "claim": "realm.tier"},
            {"header": "x-none", "claim": "absent"},
            {"header": "x-evil", "claim": "evil"},
        ],
    )
    forged = {"x-user": "root", "x-none": "forged", "x-payload": "forged"}
    signed = token(realm={"tier": 3}, evil="a\r\nb: c")
    _, asked = outcome([authentication(outputs)], {**forged, **bearer(signed)})
    assert dict(asked.headers) == {
        "x-payload": signed.split(".")[1],
        "x-user": "alice",
        "x-tier": "3",
    }
    _, without = outcome([authentication(outputs)], forged)
    assert dict(without.headers) == {}


def test_a_preflight_carries_no_credentials():
    preflight = {"origin": "https://a", "access-control-request-method": "PUT", **bearer("x")}
    assert outcome([authentication(rule())], preflight, method="OPTIONS")[0] == ""
    assert outcome([authentication(rule())], preflight)[0] != ""


SOURCE = KeySource("http://keys/jwks")
REMOTE = [authentication({"issuer": "one", "jwksUri": "http://keys/jwks"})]


def test_keys_are_fetched_only_for_requests_with_a_token():
    rules = program(*REMOTE).guards.authentication(service())
    assert wanted(rules, request()) == []
    assert wanted(rules, request(headers=bearer("x"))) == [SOURCE]


def test_without_keys_tokens_are_refused_and_other_requests_pass():
    assert outcome(REMOTE, bearer(token()))[0] == "Jwks remote fetch is failed"
    assert outcome(REMOTE)[0] == ""


def test_a_token_that_was_proven_is_not_proven_for_other_keys_nor_for_ever():
    rules = program(*REMOTE).guards.authentication(service())
    text = token(exp=NOW + 10)
    known, other = read_keys(jwks("one")), read_keys(jwks("two"))
    forged = text.rpartition(".")[0] + "." + token(sub="mallory").rpartition(".")[2]

    def error(text, keys, now_s=NOW):
        return judge(rules, request(headers=bearer(text)), lambda source: keys, now_s).error

    for _ in range(2):
        assert error(text, known) == ""
        assert error(text, other) != ""
        assert error(text, known, NOW + 71) == "Jwt is expired"
        assert error(forged, known) == "Jwt verification fails"


def test_proven_tokens_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(json_web_token, "_PROVEN_TOKENS", 3)
    for number in range(8):
        assert outcome([authentication(rule())], bearer(token(sub=f"user-{number}")))[0] == ""
    assert len(json_web_token._proven) <= 3


@pytest.mark.parametrize(
    ("headers", "target", "carried"),
    [
        ({}, "/", False),
        ({"x-a": "b"}, "/?a=b", False),
        (bearer("x"), "/", True),
        ({}, "/?access_token=x", True),
    ],
)
def test_requests_without_a_token_are_not_looked_at_further(headers, target, carried):
    rules = program(authentication(rule())).guards.authentication(service())
    assert may_carry_token(rules, request(target=target, headers=headers)) is carried


def test_an_unknown_key_asks_for_newer_ones():
    rules = program(*REMOTE).guards.authentication(service())
    asked = request(headers=bearer(token()))
    old = judge(rules, asked, lambda source: read_keys(jwks("two")), NOW)
    assert (old.error[:15], old.stale) == ("Jwks doesn't ha", SOURCE)
    new = judge(rules, asked, lambda source: read_keys(jwks("two", "one")), NOW)
    assert (new.error, new.stale) == ("", None)


@pytest.mark.parametrize(
    ("error", "status", "challenge"),
    [
        ("Jwt is expired", 401, ', error="invalid_token"'),
        ("Jwt is missing", 401, ""),
        ("Audiences in Jwt are not allowed", 403, ', error="invalid_token"'),
    ],
)
def test_refusals(error, status, challenge):
    reply = refusal(error, request(target="/a?b=c"))
    assert (reply.status, reply.body) == (status, error)
    assert reply.details == f"jwt_authn_access_denied{{{error.replace(' ', '_')}}}"
    said = f'Bearer realm="http://reviews:9080/a?b=c"{challenge}'
    assert reply.headers == (("www-authenticate", said),)


@given(st.lists(st.tuples(st.sampled_from(["authorization", "cookie"]), st.text(max_size=50))))
def test_any_request_is_judged(fields):
    rules = program(
        authentication(rule(fromCookies=["a"], fromHeaders=[{"name": "authorization"}]))
    ).guards.authentication(service())
    asked = request()
    asked.headers.items[:] = fields
    judge(rules, asked, no_keys, NOW)
