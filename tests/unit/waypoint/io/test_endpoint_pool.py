"""Connections to one endpoint: none is lost, whatever ends the request that wanted it."""

from __future__ import annotations

import random

import trio

from ambient.hbone.io.relay import Relay
from tests.unit.waypoint.core.test_cluster import target
from waypoint.core.cluster import Cluster
from waypoint.core.host import Host
from waypoint.io.duplex import Ending
from waypoint.io.endpoint_pool import EndpointPool
from waypoint.io.fiber import Limit, drive


class Line(Ending):
    """A connection that only knows whether it was ended."""

    ended = False

    def end_now(self, code):
        self.ended = True


async def test_a_limit_that_is_reached_just_behind_a_dial_leaves_no_connection():
    line, limit = Line(), Limit()
    cluster = Cluster("reviews", random.Random(1).random)

    async def dial(*_):
        await trio.lowlevel.checkpoint()
        limit.cancel()  # nothing waits any more before the connection is handed over
        return line

    pool = EndpointPool(cluster, Host(target(1), 0.0), dial)

    async def main():
        with limit:
            await pool.http1(fresh=False, careful=False)

    relay = Relay()
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        with trio.fail_after(10):
            await drive(relay, main())
        nursery.cancel_scope.cancel()
    assert limit.cancelled_caught
    assert line.ended
    assert (cluster.connections, pool.idle) == (0, True)
