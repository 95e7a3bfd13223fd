"""Nouns of the wire that have a name of their own."""

from ambient.api.config import ConfigObject


def test_the_name_of_a_config_object():
    route = ConfigObject(api_version="v1", kind="HTTPRoute", namespace="shop", name="r")
    assert route.key == "HTTPRoute/shop/r"
    assert ConfigObject(api_version="v1", kind="GatewayClass", name="c").key == "GatewayClass//c"
