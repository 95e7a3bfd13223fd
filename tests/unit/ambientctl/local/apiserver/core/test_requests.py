"""From an HTTP request to what it asks for."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.requests import (
    Target,
    accepts,
    load_yaml,
    parse_target,
    read_body,
    read_request,
)
from ambientctl.local.apiserver.core.status import ApiError


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("/api/v1/pods", Target("", "v1", "pods", "", "", "")),
        ("/api/v1/namespaces", Target("", "v1", "namespaces", "", "", "")),
        ("/api/v1/namespaces/shop", Target("", "v1", "namespaces", "", "shop", "")),
        ("/api/v1/namespaces/shop/status", Target("", "v1", "namespaces", "", "shop", "status")),
        ("/api/v1/namespaces/shop/pods/web/log", Target("", "v1", "pods", "shop", "web", "log")),
        ("/apis/apps/v1/namespaces/shop/deployments/web",
         Target("apps", "v1", "deployments", "shop", "web", "")),
        ("/api/v1/nodes/a%2Fb", Target("", "v1", "nodes", "", "a/b", "")),
    ],
)  # fmt: skip
def test_paths(path, want):
    assert parse_target(path) == want


@pytest.mark.parametrize("path", ["/", "/foo/bar", "/api/v1/pods/a/b/c", "/api/v1/pods//x"])
def test_paths_that_name_nothing(path):
    with pytest.raises(ApiError) as caught:
        parse_target(path)
    assert caught.value.code == 404


def sent(body, media_type="application/json"):
    return read_request("POST", "/x?a=1&b&c=x", {"content-type": media_type}, body)


def test_the_query():
    request = sent(b"")
    assert (request.flag("a"), request.flag("b"), request.flag("d")) == (True, True, False)
    assert (request.number("a"), request.number("d")) == (1, None)
    with pytest.raises(ApiError, match="must be a number"):
        request.number("c")


def test_bodies():
    assert read_body(sent(b"")) is None
    assert read_body(sent(b'{"a":1}')) == {"a": 1}
    assert read_body(sent(b"a: 1", "application/yaml")) == {"a": 1}


@pytest.mark.parametrize(
    ("body", "media_type", "code", "text"),
    [
        (b"{", "application/json", 400, "not valid JSON"),
        (b"\xff", "application/json", 400, "not valid JSON"),
        (b"a: [", "application/yaml", 400, "error parsing YAML"),
        (b"a: 1\n---\nb: 1", "application/yaml", 400, "exactly one YAML document"),
        (b"x", "text/plain", 415, "application/json"),
    ],
)
def test_bodies_that_cannot_be_read(body, media_type, code, text):
    with pytest.raises(ApiError, match=text) as caught:
        read_body(sent(body, media_type))
    assert caught.value.code == code


def test_a_date_in_yaml_stays_text():
    assert load_yaml("at: 2026-01-01") == [{"at": "2026-01-01"}]


def test_what_kubectl_accepts():
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    request = read_request("GET", "/", {"accept": accept}, b"")
    assert accepts(request, "Table")
    assert not accepts(request, "PartialObjectMetadata")
