"""Settings that follow from others."""

from __future__ import annotations

import pytest

from istiod_lite.settings import Settings


@pytest.mark.parametrize(
    ("settings", "address", "lease"),
    [
        (Settings(), "istiod.istio-system.svc:15012", "istiod-lite-writer"),
        (
            Settings(revision="canary", pod_namespace="mesh"),
            "istiod-canary.mesh.svc:15012",
            "istiod-lite-writer-canary",
        ),
        (Settings(xds_address="elsewhere:1"), "elsewhere:1", "istiod-lite-writer"),
    ],
)
def test_a_revisions_waypoints_ask_its_own_control_plane(settings, address, lease) -> None:
    assert settings.discovery_address == address
    assert settings.lease_name == lease
    if not settings.xds_address:
        assert address.partition(":")[0] in settings.serving_names
