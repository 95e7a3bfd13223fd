"""RequestAuthentication as it is written."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.sample import config, program, service
from waypoint.core.request_authentication import Carrier, KeySource, Location

TARGETS = [{"kind": "Service", "name": "reviews"}]


def compiled(rule):
    made = program(
        config("RequestAuthentication", "jwt", {"targetRefs": TARGETS, "jwtRules": [rule]})
    )
    (provider,) = made.guards.authentication(service()).providers
    return provider, made.problems


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ({"issuer": "x", "jwksUri": "http://k/j"}, KeySource("http://k/j")),
        ({"issuer": "x", "jwks_uri": "https://k/j"}, KeySource("https://k/j")),
        ({"issuer": "x", "jwksUri": "http://k/j", "timeout": "1.5s"},
         KeySource("http://k/j", timeout_s=1.5)),
        ({"issuer": "https://idp/"},
         KeySource("https://idp/.well-known/openid-configuration", discover=True)),
    ],
)  # fmt: skip
def test_where_keys_come_from(rule, source):
    provider, problems = compiled(rule)
    assert (provider.source, provider.keys, problems) == (source, None, ())


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({}, "spec.jwtRules[0]"),
        ({"issuer": "x", "jwks": "{}", "jwksUri": "http://k"}, "spec.jwtRules[0]"),
        ({"issuer": "x", "jwks": "{}"}, "spec.jwtRules[0].jwks"),
        ({"issuer": "x", "jwksUri": "file:///etc/passwd"}, "spec.jwtRules[0].jwksUri"),
        ({"issuer": "x", "jwksUri": "http://"}, "spec.jwtRules[0].jwksUri"),
        ({"issuer": "x", "jwksUri": "http://k:99999/"}, "spec.jwtRules[0].jwksUri"),
        ({"issuer": "not-a-url"}, "spec.jwtRules[0].jwksUri"),
        ({"issuer": 7}, "spec.jwtRules[0].issuer"),
        ({"issuer": "https://x", "audiences": "x"}, "spec.jwtRules[0].audiences"),
        ({"issuer": "https://x", "timeout": "soon"}, "spec.jwtRules[0].timeout"),
        ({"issuer": "https://x", "fromHeaders": [{}]}, "spec.jwtRules[0].fromHeaders[0].name"),
        ({"issuer": "https://x", "outputClaimToHeaders": [{"header": "a b", "claim": "c"}]},
         "spec.jwtRules[0].outputClaimToHeaders[0]"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_read_refuses_its_issuers_tokens(rule, field):
    provider, problems = compiled(rule)
    assert [(p.field, p.effect) for p in problems] == [
        (field, "every token of this issuer is refused")
    ]
    assert provider.keys is not None
    assert not provider.keys.keys


def test_places():
    provider, _ = compiled(
        {
            "issuer": "https://x",
            "fromHeaders": [{"name": "X-A", "prefix": "p "}],
            "fromParams": ["t"],
            "fromCookies": ["c"],
        }
    )
    assert provider.locations == (
        Location(Carrier.HEADER, "x-a", "p "),
        Location(Carrier.PARAMETER, "t"),
        Location(Carrier.COOKIE, "c"),
    )
