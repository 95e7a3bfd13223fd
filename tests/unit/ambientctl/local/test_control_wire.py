"""A pod's owner by the pod's name."""

from __future__ import annotations

import pytest

from ambientctl.local.control_wire import owner_name


@pytest.mark.parametrize(
    ("pod", "owner"),
    [
        ("reviews-v1-5d4f8c7b9-x2x2x", "reviews-v1"),
        ("productpage-6b746f74dc-9rlmh", "productpage"),
        ("ztunnel-abcde", "ztunnel"),
        ("istio-cni-node-8rvcq", "istio-cni-node"),
    ],
)
def test_owner_name(pod, owner):
    assert owner_name(pod) == owner
