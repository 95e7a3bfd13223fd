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
