"""Commands: events are counted, everything else goes through the API's rules."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.kinds import EVENTS, SERVICES
from ambientctl.local.apiserver.core.status import ApiError
from ambientctl.local.controllers.commands import Create, Delete, Record, perform
from tests.unit.ambientctl.local.worlds import pod, service


def test_the_same_event_again_is_counted(world):
    made = world.create(pod())
    told = Record(made, "Warning", "Broken", "it is broken", "tester")
    for _ in range(3):
        perform(world.cluster, told, "tester")
    (event,) = world.cluster.store.objects(EVENTS)
    assert (event["count"], event["message"]) == (3, "it is broken")
    assert event["involvedObject"]["uid"] == made["metadata"]["uid"]
    perform(world.cluster, told._replace(message="worse"), "tester")
    assert len(world.cluster.store.objects(EVENTS)) == 2


def test_refusals_come_through(world):
    perform(world.cluster, Create(SERVICES, service()), "tester")
    with pytest.raises(ApiError, match="already exists"):
        perform(world.cluster, Create(SERVICES, service()), "tester")
    perform(world.cluster, Delete(SERVICES, "shop", "web"), "tester")
    with pytest.raises(ApiError, match="not found"):
        perform(world.cluster, Delete(SERVICES, "shop", "web"), "tester")
    with pytest.raises(LookupError):
        perform(world.cluster, Delete(("x.y", "things"), "shop", "web"), "tester")
