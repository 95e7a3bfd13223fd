"""Istio's variables, our defaults."""

import pytest

from ambient.api.errors import SettingsError
from ambient.cli.settings import load_settings
from ztunnel.settings import Settings


@pytest.mark.parametrize(
    ("env", "drain_s"),
    [
        ({}, 5.0),
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "30"}, 25.0),
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "10"}, 9.0),
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "1"}, 1.0),
        ({"CONNECTION_TERMINATION_DEADLINE": "1m"}, 60.0),
    ],
)
def test_how_long_connections_get_at_the_end(env, drain_s):
    assert load_settings(Settings, env).drain_s == drain_s


def test_the_defaults_are_istios():
    settings = load_settings(Settings, {})
    assert settings.inpod_uds == "/var/run/ztunnel/ztunnel.sock"
    assert settings.mark == 1337
    assert settings.secret_ttl_s == 86400


def test_in_dedicated_mode_packets_are_marked_only_where_that_is_asked_for():
    dedicated = {"PROXY_MODE": "dedicated"}
    assert load_settings(Settings, dedicated).mark is None
    assert load_settings(Settings, dedicated | {"PACKET_MARK": "7"}).mark == 7


@pytest.mark.parametrize(
    "env",
    [
        {"PROXY_MODE": "both"},
        {"ADMIN_PORT": "70000"},
        {"KEEPALIVE_TIME": "soon"},
        {"PACKET_MARK": "0"},
    ],
)
def test_a_bad_value_is_named(env):
    ((name, value),) = env.items()
    with pytest.raises(SettingsError, match=f"{name}='{value}'"):
        load_settings(Settings, env)


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({}, True),
        ({"DNS_CAPTURE": "false"}, False),
        ({"ISTIO_META_DNS_CAPTURE": "false"}, False),
        ({"DNS_CAPTURE": "false", "ISTIO_META_DNS_CAPTURE": "true"}, True),
        ({"DNS_CAPTURE": "true", "ISTIO_META_DNS_CAPTURE": ""}, True),
    ],
)
def test_whether_pods_get_a_dns_proxy(env, wanted):
    assert load_settings(Settings, env).dns_proxy is wanted
