"""Settings from the environment, and what a person is told about a bad one."""

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from ambient.api.errors import SettingsError
from ambient.cli.settings import load_settings, parse_seconds


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    xds_address: str
    node_name: str = "nowhere"
    port: Annotated[int, Meta(ge=1, le=65535)] = 15008
    drain_s: Annotated[float, Meta(gt=0)] = 5.0
    dns: bool = True
    log_format: Literal["plain", "json"] = "plain"
    hosts: tuple[str, ...] = ()
    cluster: str = msgspec.field(default="Kubernetes", name="ISTIO_META_CLUSTER_ID")
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.drain_s > 100 and self.dns:
            raise ValueError("drain_s above 100 needs dns=false")


BASE = {"XDS_ADDRESS": "istiod:15012"}


def load(**env: str) -> Settings:
    return load_settings(Settings, BASE | env)


def test_a_family_of_variables_is_one_field():
    class Family(msgspec.Struct, frozen=True):
        headers: dict[str, str] = msgspec.field(default={}, name="XDS_HEADER_*")

    found = load_settings(Family, {"XDS_HEADER_x-tenant": "blue", "XDS_HEADER_": "", "XDS": "1"})
    assert found.headers == {"x-tenant": "blue"}
    assert load_settings(Family, {}).headers == {}


def test_only_what_is_needed_is_read():
    assert load(UNRELATED="x") == Settings(xds_address="istiod:15012")


@pytest.mark.parametrize(
    ("env", "field", "value"),
    [
        ({"PORT": "80"}, "port", 80),
        ({"PORT": ""}, "port", 15008),  # as Kubernetes leaves a value that was not filled in
        ({"NODE_NAME": ""}, "node_name", ""),
        ({"DRAIN_S": "2.5"}, "drain_s", 2.5),
        ({"DRAIN_S": "1m30s"}, "drain_s", 90.0),
        ({"DRAIN_S": "500ms"}, "drain_s", 0.5),
        ({"DNS": "false"}, "dns", False),
        ({"DNS": "0"}, "dns", False),
        ({"LOG_FORMAT": "json"}, "log_format", "json"),
        ({"HOSTS": "a, b,,c"}, "hosts", ("a", "b", "c")),
        ({"ISTIO_META_CLUSTER_ID": "east"}, "cluster", "east"),
        ({"LIMIT": "7"}, "limit", 7),
    ],
)
def test_values(env, field, value):
    assert getattr(load(**env), field) == value


@pytest.mark.parametrize(
    ("env", "message", "hint"),
    [
        (
            {"PORT": "http"},
            "PORT='http' cannot be used: expected int",
            "set PORT to a whole number from 1 up to 65535",
        ),
        (
            {"PORT": "0"},
            "PORT='0' cannot be used: expected int >= 1",
            "set PORT to a whole number from 1 up to 65535",
        ),
        ({"DNS": "maybe"}, "DNS='maybe' cannot be used: expected bool", "set DNS to true or false"),
        (
            {"DRAIN_S": "soon"},
            "DRAIN_S='soon' cannot be used: expected float",
            "set DRAIN_S to a number above 0",
        ),
        (
            {"LOG_FORMAT": "xml"},
            "LOG_FORMAT='xml' cannot be used: invalid enum value 'xml'",
            "set LOG_FORMAT to one of json, plain",
        ),
        (
            {"LIMIT": "x"},
            "LIMIT='x' cannot be used: expected int | null",
            "set LIMIT to a whole number",
        ),
        (
            {"DRAIN_S": "101"},
            "the settings do not fit together: drain_s above 100 needs dns=false",
            "",
        ),
    ],
)
def test_a_bad_value_names_the_variable_and_the_remedy(env, message, hint):
    with pytest.raises(SettingsError) as caught:
        load(**env)
    assert (str(caught.value), caught.value.hint) == (message, hint)
    assert caught.value.exit_code == 2


def test_a_missing_variable_is_named():
    with pytest.raises(SettingsError, match="XDS_ADDRESS is not set") as caught:
        load_settings(Settings, {})
    assert caught.value.hint == "set XDS_ADDRESS to a text"


@pytest.mark.parametrize("text", ["1x", "s", "1s2", "", "1 m"])
def test_not_a_duration(text):
    with pytest.raises(ValueError, match="float"):
        parse_seconds(text)
