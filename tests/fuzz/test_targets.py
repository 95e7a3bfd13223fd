"""Every fuzz target, briefly, with a seed that never changes."""

import pytest

from tests.fuzz import (
    certificates,
    dns_answers,
    dns_packets,
    hbone_client,
    hbone_server,
    header_blocks,
    http1_messages,
    http2_frames,
    mutation,
    route_objects,
    socks_clients,
    spdy_clients,
    tokens,
    xds_resources,
    zds_messages,
)

TARGETS = [
    certificates,
    dns_answers,
    dns_packets,
    hbone_client,
    hbone_server,
    header_blocks,
    http1_messages,
    http2_frames,
    route_objects,
    socks_clients,
    spdy_clients,
    tokens,
    xds_resources,
    zds_messages,
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__.rpartition(".")[2])
def test_target(target):
    count = mutation.run(target.run, target.SEEDS, seconds=0.5, mutated=40)
    assert count >= len(target.SEEDS) + 40
