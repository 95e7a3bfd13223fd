"""Service account tokens: what they say, and when they say nothing any more."""

from __future__ import annotations

import jwt
import pytest

from ambientctl.local.apiserver.core.kinds import SERVICE_ACCOUNTS
from ambientctl.local.apiserver.core.status import ApiError
from ambientctl.local.apiserver.core.subresources import request_token
from ambientctl.local.apiserver.core.tokens import TokenAuthority, TokenError
from tests.unit.ambientctl.local.worlds import node, pod

ISSUER = "https://kubernetes.default.svc.cluster.local"


@pytest.fixture
def authority(world):
    return TokenAuthority(world.cluster.store, ISSUER)


def ask(world, authority, **spec):
    account = world.cluster.store.get(SERVICE_ACCOUNTS, "shop", "default")
    return request_token(world.cluster, authority, account, {"spec": spec}, world.now)


def judge(world, authority, request, audiences=(), later_s=0):
    now_s = int(world.now.timestamp()) + later_s
    return authority.authenticate(request["status"]["token"], audiences, now_s)


@pytest.fixture
def made(world):
    world.create(node("node-1"))
    return world.create(pod(nodeName="node-1"))


def test_a_plain_token_is_for_the_api_server(world, authority, made):
    request = ask(world, authority)
    user, audiences = judge(world, authority, request)
    assert user.name == "system:serviceaccount:shop:default"
    assert user.groups == (
        "system:serviceaccounts",
        "system:serviceaccounts:shop",
        "system:authenticated",
    )
    assert audiences == [ISSUER]
    assert request["status"]["expirationTimestamp"] == "2026-01-01T01:00:00Z"


def bound_to(pod, **more):
    metadata = pod["metadata"]
    return {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], **more}


def test_a_bound_token_names_its_pod_and_node(world, authority, made):
    reference = bound_to(made, uid=made["metadata"]["uid"])
    request = ask(world, authority, audiences=["istio-ca"], boundObjectRef=reference)
    user, audiences = judge(world, authority, request, ["istio-ca", "other"])
    assert audiences == ["istio-ca"]
    assert user.extra["authentication.kubernetes.io/pod-name"] == ["web"]
    assert user.extra["authentication.kubernetes.io/pod-uid"] == [made["metadata"]["uid"]]
    assert user.extra["authentication.kubernetes.io/node-name"] == ["node-1"]


def test_the_wrong_audience_gets_nothing(world, authority, made):
    request = ask(world, authority, audiences=["istio-ca"])
    with pytest.raises(TokenError, match="invalid for the target audiences"):
        judge(world, authority, request)


def test_an_expired_token_gets_nothing(world, authority, made):
    request = ask(world, authority, expirationSeconds=600)
    judge(world, authority, request, later_s=599)
    with pytest.raises(TokenError, match="expired"):
        judge(world, authority, request, later_s=600)


def test_a_token_ends_with_its_pod_even_if_another_takes_the_name(world, authority, made):
    request = ask(world, authority, boundObjectRef=bound_to(made))
    world.delete(made, grace_s=0)
    world.create(pod(nodeName="node-1"))
    with pytest.raises(TokenError, match="no longer exists"):
        judge(world, authority, request)


def test_a_token_ends_with_its_account(world, authority, made):
    request = ask(world, authority)
    world.delete({"apiVersion": "v1", "kind": "ServiceAccount",
                  "metadata": {"name": "default", "namespace": "shop"}})  # fmt: skip
    with pytest.raises(TokenError, match="service account shop/default"):
        judge(world, authority, request)


@pytest.mark.parametrize("token", ["", "a.b.c", "garbage"])
def test_what_is_no_token(authority, token):
    with pytest.raises(TokenError):
        authority.authenticate(token, (), 0)


def test_a_token_of_another_mesh(world, authority, made):
    request = ask(world, TokenAuthority(world.cluster.store, ISSUER))
    with pytest.raises(TokenError, match="Signature"):
        judge(world, authority, request)


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"expirationSeconds": 10}, 422),
        ({"boundObjectRef": {"kind": "Pod", "name": "nobody"}}, 404),
        ({"boundObjectRef": {"kind": "Pod", "name": "web", "uid": "old"}}, 409),
        ({"boundObjectRef": {"kind": "Service", "name": "web"}}, 400),
    ],
)
def test_a_request_that_cannot_be_met(world, authority, made, spec, code):
    with pytest.raises(ApiError) as caught:
        ask(world, authority, **spec)
    assert caught.value.code == code


def test_a_pod_gets_tokens_of_its_own_account_only(world, authority, made):
    other = {"apiVersion": "v1", "kind": "ServiceAccount",
             "metadata": {"name": "other", "namespace": "shop"}}  # fmt: skip
    account = world.create(other)
    body = {"spec": {"boundObjectRef": bound_to(made)}}
    with pytest.raises(ApiError, match="different serviceaccount"):
        request_token(world.cluster, authority, account, body, world.now)


def test_anybody_can_verify_with_the_published_key(world, authority, made):
    token = ask(world, authority)["status"]["token"]
    (key,) = authority.jwks()["keys"]
    options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    claims = jwt.decode(token, jwt.PyJWK(key).key, ["ES256"], audience=ISSUER, options=options)
    assert claims["sub"] == "system:serviceaccount:shop:default"
