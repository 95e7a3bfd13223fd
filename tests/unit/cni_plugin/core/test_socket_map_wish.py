"""Whose word counts about the socket map."""

import pytest

from ambient.kube.core.objects import Metadata, Pod
from cni_plugin.core.socket_map_wish import SOCKET_MAP_ANNOTATION, wish_of


@pytest.mark.parametrize(
    ("annotation", "setting", "want"),
    [
        (None, "send", "send"),
        ("both", "send", "both"),
        ("send", "both", "send"),
        ("off", "both", "off"),
        ("false", "both", "off"),
        ("perhaps", "send", "send"),
    ],
)
def test_the_pods_word_goes_before_the_nodes(annotation, setting, want) -> None:
    annotations = {} if annotation is None else {SOCKET_MAP_ANNOTATION: annotation}
    pod = Pod(metadata=Metadata(name="web", annotations=annotations))
    assert wish_of(pod, setting) == want
