"""Whatever the API server does wrong, a follower ends up knowing what is there."""

import pytest
import trio

from ambient.kube.core.resources import PODS
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from tests.fakes.kube_api import FakeKubeApi

COLLECTION = "/api/v1/pods"


def pod(name):
    return {"metadata": {"name": name, "namespace": "shop"}}


class Known:
    """The names that a follower knows, and whether it has contact."""

    def __init__(self):
        self.names = set()
        self.contacts = []
        self.changed = trio.Event()

    async def run(self, kube):
        async with follow(kube, PODS, contact=self.contacts.append) as events:
            async for event in events:
                if event.kind is EventKind.DELETED:
                    self.names.discard(event.object["metadata"]["name"])
                elif event.kind is not EventKind.SYNCED:
                    self.names.add(event.object["metadata"]["name"])
                self.changed.set()
                self.changed = trio.Event()

    async def until(self, names):
        with trio.fail_after(30):
            while self.names != names:
                await self.changed.wait()


def gone(api):
    api.forget_history()


def refused(api):
    api.faults = [429, 500, 503, 429]
    api.cut()


def half_a_line(api):
    sent = []

    def half(line):
        sent.append(line)
        if len(sent) > 1:
            api.watch_chunks = lambda whole: [whole]
            return [line]
        api.cut()
        return [line[: len(line) // 2]]

    api.watch_chunks = half


def rubbish(api):
    def garbage(line):
        api.watch_chunks = lambda whole: [whole]
        return [b'{"type": "ADDED", "object": 7}\n', line]

    api.watch_chunks = garbage


def cut(api):
    api.cut()


def silent(api):
    api.silent = True


@pytest.mark.parametrize("fault", [gone, refused, half_a_line, rubbish, cut, silent])
async def test_no_event_is_lost(fault, tmp_path, nursery):
    async with (
        FakeKubeApi().serving() as api,
        KubeClient.connect(api.kubeconfig(tmp_path)) as kube,
    ):
        kube.watch_quiet_s = 0.3
        api.put(COLLECTION, pod("a"))
        api.put(COLLECTION, pod("b"))
        known = Known()
        nursery.start_soon(known.run, kube)
        await known.until({"a", "b"})
        fault(api)
        api.put(COLLECTION, pod("c"))
        api.remove(COLLECTION, "shop", "a")
        if fault is silent:
            # The watch with the changes says nothing; the next one, after the silence, does.
            with trio.fail_after(30):
                while api.requests.count(f"GET {COLLECTION}") < 3:
                    await trio.sleep(0.01)
            api.silent = False
            api.put(COLLECTION, pod("d"))
            await known.until({"b", "c", "d"})
        else:
            await known.until({"b", "c"})
        nursery.cancel_scope.cancel()


async def test_contact_is_lost_and_found(tmp_path, nursery):
    async with (
        FakeKubeApi().serving() as api,
        KubeClient.connect(api.kubeconfig(tmp_path)) as kube,
    ):
        api.put(COLLECTION, pod("a"))
        known = Known()
        nursery.start_soon(known.run, kube)
        await known.until({"a"})
        api.away = True
        api.cut()
        with trio.fail_after(30):
            while known.contacts[-1]:
                await trio.sleep(0.01)
            api.away = False
            while not known.contacts[-1]:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
