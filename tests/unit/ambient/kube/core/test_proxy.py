"""Which proxy an API server is reached through."""

from __future__ import annotations

import pytest

from ambient.kube.core.proxy import Proxy, proxy_for, read_proxy


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy:3128", Proxy("http", "proxy", 3128)),
        ("proxy:3128", Proxy("http", "proxy", 3128)),
        ("https://proxy", Proxy("https", "proxy", 443)),
        ("socks5://[fd00::1]", Proxy("socks5", "fd00::1", 1080)),
        ("socks5h://proxy", Proxy("socks5", "proxy", 1080)),
        ("http://me:p%40ss@proxy", Proxy("http", "proxy", 80, ("me", "p@ss"))),
    ],
)
def test_urls_of_proxies(text, proxy):
    assert read_proxy(text) == proxy


@pytest.mark.parametrize("text", ["ftp://a", "http://", "http://me:secret@a:b", "http://[::1", ""])
def test_what_is_no_proxy_is_refused_without_telling_its_password(text):
    with pytest.raises(ValueError, match="no URL such as") as caught:
        read_proxy(text)
    assert "secret" not in str(caught.value)


ENV = {"HTTPS_PROXY": "http://secure:1", "http_proxy": "http://plain:2"}


@pytest.mark.parametrize(
    ("server", "excepted", "host"),
    [
        ("https://api.example:6443", "", "secure"),
        ("http://api.example", "", "plain"),
        ("https://10.0.0.1:6443", "10.1.0.0/16, other", "secure"),
        ("https://10.0.0.1:6443", "10.0.0.0/8", None),
        ("https://[fd00::1]:6443", "fd00::/8", None),
        ("https://[fd00::1]:6443", "[fd00::1]:6443", None),
        ("https://[fd00::1]:6443", "fd00::1", None),
        ("https://10.0.0.1", "10.0.0.0/nonsense", "secure"),
        ("https://api.example:6443", "*", None),
        ("https://api.example:6443", "example", None),
        ("https://example", ".example", "secure"),
        ("https://api.example", ".example", None),
        ("https://api.example", "*.example", None),
        ("https://myexample", "example", "secure"),
        ("https://api.example:6443", "API.example:6443", None),
        ("https://api.example:6443", "api.example:443", "secure"),
        ("https://api.example", "api.example:443", None),
        ("https://127.0.0.1:6443", "", None),
        ("https://localhost:6443", "", None),
        ("https://[::1]:6443", "", None),
    ],
)
def test_the_environment_names_a_proxy_and_its_exceptions(server, excepted, host):
    found = proxy_for(server, "", ENV | {"NO_PROXY": excepted})
    assert (found and found.host) == host


def test_what_the_kubeconfig_says_wins_also_over_exceptions():
    found = proxy_for("https://localhost", "socks5://own", ENV | {"NO_PROXY": "*"})
    assert found == Proxy("socks5", "own", 1080)


def test_nobody_names_one():
    assert proxy_for("https://api.example", "", {}) is None
