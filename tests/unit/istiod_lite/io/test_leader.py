"""Of two replicas one writes; the other takes over when it is gone."""

import pytest
import trio

from ambient.kube.io.client import KubeClient
from istiod_lite.io.leader import LEASE_NAME, Leader
from tests.fakes.kube_api import FakeKubeApi

LEASES = "/apis/coordination.k8s.io/v1/leases"
LEASE_S = 0.6


class Writers:
    """Who is writing now, by name."""

    def __init__(self):
        self.active = []
        self.changed = trio.Event()

    def work(self, name):
        async def work():
            self._note(self.active.append, name)
            try:
                await trio.sleep_forever()
            finally:
                self._note(self.active.remove, name)

        return work

    def _note(self, change, name):
        change(name)
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, names):
        with trio.fail_after(30):
            while self.active != names:
                await self.changed.wait()


@pytest.fixture
async def kube(tmp_path):
    async with (
        FakeKubeApi().serving() as api,
        KubeClient.connect(api.kubeconfig(tmp_path)) as kube,
    ):
        kube.api = api
        yield kube


async def test_one_writes_and_a_released_lease_is_taken_over(kube, nursery):
    writers = Writers()
    first, second = (Leader(kube, "istio-system", name, LEASE_S) for name in "ab")
    scope = trio.CancelScope()

    async def run_first():
        with scope:
            await first.run(writers.work("a"))

    nursery.start_soon(run_first)
    await writers.until(["a"])
    nursery.start_soon(second.run, writers.work("b"))
    scope.cancel()
    await writers.until([])
    await first.release()
    await writers.until(["b"])
    lease = kube.api.get(LEASES, "istio-system", LEASE_NAME)
    assert lease["spec"]["leaseTransitions"] == 1
    nursery.cancel_scope.cancel()


async def test_who_cannot_renew_stops_writing_before_another_may_start(kube, nursery):
    writers = Writers()
    nursery.start_soon(Leader(kube, "istio-system", "a", LEASE_S).run, writers.work("a"))
    await writers.until(["a"])
    kube.api.away = True
    kube.api.cut()
    await writers.until([])
    kube.api.away = False
    await writers.until(["a"])
    nursery.cancel_scope.cancel()
