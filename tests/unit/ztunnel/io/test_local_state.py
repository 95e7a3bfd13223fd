"""The file of the mesh state, while somebody edits it."""

import io
import os

import pytest
import trio

from ambient.api.errors import SettingsError
from ambient.state.core.mesh import MeshState
from ambient.telemetry.io import logs
from tests.netns.tunnel import capture_log
from ztunnel.core.local_config import LocalConfigError
from ztunnel.io.local_state import LocalState

ONE = "{uid: %s, name: %s, namespace: shop, workloadIps: [10.0.0.1]}"


def content(*uids):
    return "workloads: [" + ", ".join(ONE % (uid, uid) for uid in uids) + "]"


class World:
    def __init__(self):
        self.mesh = MeshState()

    def apply(self, update):
        self.mesh.apply(update.type_url, update.changed, update.removed)
        return ()

    @property
    def uids(self):
        return {one.uid for one in self.mesh.workloads}

    async def until(self, *uids):
        with trio.fail_after(30):
            while self.uids != set(uids):
                await trio.sleep(0.01)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def log():
    yield capture_log(io.StringIO())
    logs.configure()


def replace(path, text):
    """As editors and ConfigMaps do: another file under the same name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


async def test_a_changed_file_is_read_again_and_a_bad_one_is_told(world, tmp_path, log):
    path = tmp_path / "mesh.yaml"
    path.write_text(content("a", "b"))
    async with trio.open_nursery() as nursery:
        await nursery.start(LocalState(str(path), "", world.apply).run)
        assert world.uids == {"a", "b"}
        replace(path, content("b", "c"))
        await world.until("b", "c")
        replace(path, "workloads: [{uid: x}]")
        with trio.fail_after(30):
            while not log.events("local_state.refused"):
                await trio.sleep(0.01)
        (told,) = log.events("local_state.refused")
        assert str(path) in told["error"]
        assert world.uids == {"b", "c"}  # the last good one
        replace(path, content("d"))
        await world.until("d")
        nursery.cancel_scope.cancel()


async def test_a_file_that_cannot_be_used_at_the_start_is_an_error(world, tmp_path):
    with pytest.raises(LocalConfigError, match=r"none\.yaml cannot be read: No such file"):
        await LocalState(str(tmp_path / "none.yaml"), "", world.apply).run()
    with pytest.raises(LocalConfigError, match=r"LOCAL_XDS: workload 1"):
        await LocalState("", "workloads: [{}]", world.apply).run()


async def test_a_text_in_the_environment(world):
    async with trio.open_nursery() as nursery:
        await nursery.start(LocalState("", content("a"), world.apply).run)
        assert world.uids == {"a"}
        nursery.cancel_scope.cancel()


def test_only_one_of_both(world):
    with pytest.raises(SettingsError, match="both set"):
        LocalState("/mesh.yaml", "workloads: []", world.apply)
