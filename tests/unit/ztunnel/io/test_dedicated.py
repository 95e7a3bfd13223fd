"""Which workload a dedicated tunnel serves."""

import pytest

from ambient.api.errors import MeshError
from ambient.net.core.wire import Add
from ztunnel.io.dedicated import workload_of
from ztunnel.settings import Settings


def test_namespace_name_and_account():
    settings = Settings(proxy_mode="dedicated", proxy_workload_info="shop/web-1/web")
    assert workload_of(settings) == Add("shop/web-1", "web-1", "shop", "web")


@pytest.mark.parametrize("text", ["", "shop", "shop/web", "shop//web", "a/b/c/d"])
def test_anything_else_is_an_error_that_shows_the_form(text):
    settings = Settings(proxy_mode="dedicated", proxy_workload_info=text)
    with pytest.raises(MeshError) as caught:
        workload_of(settings)
    assert repr(text) in str(caught.value)
    assert "namespace/name/service-account" in caught.value.hint
