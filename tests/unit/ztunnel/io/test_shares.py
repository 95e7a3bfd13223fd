"""What the node agent says, divided among workers; the workers are played by the test."""

import pytest
import trio

from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from ambient.telemetry.core.readiness import Readiness
from ztunnel.core.shares import worker_of
from ztunnel.io.pods import POD_MANAGER, PodStartError, SnapshotError
from ztunnel.io.shares import Shares

UIDS = [f"uid-{number}" for number in range(6)]


class FakeWorker:
    """Takes what it is told; ``refusal`` and ``away`` are how it can be otherwise."""

    def __init__(self):
        self.books = {}
        self.told = []
        self.serving = True
        self.refusal = ""

    async def sync(self, uid, *, again=False):
        await trio.lowlevel.checkpoint()
        if not self.serving:
            raise PodStartError("worker 0 is being started again")
        self.told.append(("serve" if uid in self.books else "drop", uid))
        return self.refusal


class World:
    def __init__(self, nursery):
        self.workers = [FakeWorker(), FakeWorker()]
        self.readiness = Readiness([])
        self.shares = Shares(self.workers, self.readiness, nursery)

    def of(self, uid):
        return self.workers[worker_of(uid, 2)]

    async def add(self, uid):
        netns = Netns.current()
        await self.shares.add(Add(uid, uid, "shop", "web"), netns)
        return netns

    @property
    def served(self):
        return {uid for worker in self.workers for uid in worker.books}


@pytest.fixture
async def world():
    async with trio.open_nursery() as nursery:
        made = World(nursery)
        yield made
        made.shares.close()
        nursery.cancel_scope.cancel()


async def test_each_pod_goes_to_its_own_worker_and_the_snapshot_makes_ready(world):
    for uid in UIDS:
        await world.add(uid)
    assert world.served == set(UIDS)
    for uid in UIDS:
        assert world.of(uid).told.count(("serve", uid)) == 1
    assert world.readiness.pending == (POD_MANAGER,)
    world.shares.snapshot_sent()
    assert world.readiness.ready


async def test_a_new_session_touches_only_pods_that_it_does_not_name(world):
    first, second, third = UIDS[:3]
    for uid in (first, second, third):
        await world.add(uid)
    world.shares.snapshot_sent()
    world.shares.begin_session()
    assert not world.readiness.ready
    assert world.served == {first, second, third}, "they are served meanwhile"
    again = await world.add(first)
    with pytest.raises(ValueError, match="closed"):
        _ = again.fd  # the same namespace: the second descriptor is not needed
    world.shares.keep(second)
    world.shares.snapshot_sent()
    await trio.testing.wait_all_tasks_blocked()
    assert world.served == {first, second}
    assert ("drop", third) in world.of(third).told


async def test_a_pod_that_leaves_is_forgotten_also_while_its_worker_is_away(world):
    uid = UIDS[0]
    netns = await world.add(uid)
    world.shares.snapshot_sent()
    world.of(uid).serving = False
    world.shares.delete(uid)
    world.shares.delete("never heard of")
    await trio.testing.wait_all_tasks_blocked()
    assert world.served == set()
    with pytest.raises(ValueError, match="closed"):
        _ = netns.fd


async def test_a_worker_that_is_away_refuses_and_has_the_pod_in_its_books(world):
    uid = UIDS[0]
    world.of(uid).serving = False
    with pytest.raises(PodStartError, match="being started again"):
        await world.add(uid)
    assert uid in world.of(uid).books, "the next one is told of it"


async def test_a_refusal_is_passed_on_without_repeating_how_it_begins(world):
    uid = UIDS[0]
    world.of(uid).refusal = "failure to start proxy: cannot listen on port 15008"
    with pytest.raises(PodStartError, match=r"^cannot listen on port 15008$"):
        await world.add(uid)


async def test_what_the_agent_may_not_say(world):
    world.shares.snapshot_sent()
    with pytest.raises(SnapshotError):
        world.shares.snapshot_sent()
    with pytest.raises(SnapshotError):
        world.shares.keep("uid")
