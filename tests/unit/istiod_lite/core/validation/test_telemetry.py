"""Telemetry and EnvoyFilter before they are stored."""

from __future__ import annotations

import pytest

from istiod_lite.core.validation.objects import check

KINDS = {
    "Telemetry": "telemetry.istio.io/v1",
    "EnvoyFilter": "networking.istio.io/v1alpha3",
    "RequestAuthentication": "security.istio.io/v1",
}


def judged(kind, spec):
    report = check(
        {"apiVersion": KINDS[kind], "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    )
    return [one.field for one in report.problems]


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({}, []),
        ({"tracing": [{"randomSamplingPercentage": 10.5, "customTags": {"a": {"literal": {
            "value": "b"}}}}]}, []),
        ({"tracing": [{"randomSamplingPercentage": 101}]},
         ["spec.tracing[0].randomSamplingPercentage"]),
        ({"tracing": [{"providers": [{"name": "a"}, {"name": "b"}]}]},
         ["spec.tracing[0].providers"]),
        ({"tracing": [{"customTags": {"a": {}}}]}, ["spec.tracing[0].customTags[a]"]),
        ({"metrics": [{"overrides": [{"match": {"metric": "REQUESTS"}}]}]},
         ["spec.metrics[0].overrides[0].match.metric"]),
        ({"metrics": [{"overrides": [{"tagOverrides": {"t": {"operation": "UPSERT"}}}]}]},
         ["spec.metrics[0].overrides[0].tagOverrides[t].value"]),
        ({"accessLogging": [{"providers": [{}]}]},
         ["spec.accessLogging[0].providers[0].name"]),
        ({"acessLogging": []}, ["spec.acessLogging"]),
    ],
)  # fmt: skip
def test_telemetry(spec, fields):
    assert judged("Telemetry", spec) == fields


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        ({"issuer": "https://x"}, []),
        ({"jwksUri": "https://x/jwks"}, []),
        ({}, ["issuer"]),
        ({"issuer": "x", "jwksUri": "ftp://x"}, ["jwksUri"]),
        ({"issuer": "x", "fromCookies": [""]}, ["fromCookies[0]"]),
        ({"issuer": "x", "outputClaimToHeaders": [{"header": "a b", "claim": "c"}]},
         ["outputClaimToHeaders[0].header"]),
        ({"issuer": "x", "fromHeader": []}, ["fromHeader"]),
        ({"issuer": "x", "timeout": "soon"}, ["timeout"]),
    ],
)  # fmt: skip
def test_token_rules(rule, fields):
    expected = [f"spec.jwtRules[0].{one}" for one in fields]
    assert judged("RequestAuthentication", {"jwtRules": [rule]}) == expected


def test_an_envoy_filter_without_rate_limits_is_warned_about():
    patch = {"applyTo": "CLUSTER", "patch": {"operation": "MERGE", "value": {"a": 1}}}
    report = check(
        {
            "apiVersion": KINDS["EnvoyFilter"],
            "kind": "EnvoyFilter",
            "metadata": {"name": "x"},
            "spec": {"configPatches": [patch]},
        }
    )
    assert report.problems == []
    assert "no effect" in report.warnings[0].text
