"""What a refusal means, and what to do about it."""

import json

import pytest

from ambient.kube.core.errors import error_from


@pytest.mark.parametrize(
    ("message", "is_a_role"),
    [
        ('pods is forbidden: User "a" cannot list resource "pods"', True),
        ("", True),
        ('pods "a" is forbidden: exceeded quota: q', False),
        ('pods "a" is forbidden: violates PodSecurity "restricted:latest"', False),
    ],
)
def test_only_an_authorizer_lacks_a_role(message, is_a_role):
    error = error_from(403, json.dumps({"message": message}).encode(), "POST /x")
    assert ("lacks a Role" in error.hint) is is_a_role


@pytest.mark.parametrize(
    ("sentence", "hint"),
    [
        ('cannot list resource "pods" in API group "" at the cluster scope',
         "allows list on pods: kubectl auth can-i list pods -A"),
        ('cannot create resource "pods/portforward" in API group "" in the namespace "mesh"',
         "kubectl auth can-i create pods --subresource=portforward -n mesh"),
        ('cannot patch resource "gateways" in API group "gateway.networking.k8s.io" in the '
         'namespace "shop"', "kubectl auth can-i patch gateways.gateway.networking.k8s.io -n shop"),
    ],
)  # fmt: skip
def test_a_right_that_is_missing_is_named_with_the_command_that_shows_it(sentence, hint):
    body = f'{{"message": {json.dumps(f"x is forbidden: User u {sentence}")}}}'.encode()
    assert hint in error_from(403, body, "pods").hint
