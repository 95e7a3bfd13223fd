"""Controllers without tasks: every key they want to look at, until nothing is left to do."""

from __future__ import annotations

from typing import Any

from ambientctl.local.apiserver.core.kinds import PODS
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.controllers.commands import perform
from ambientctl.local.controllers.loop import Controller, Key
from tests.unit.ambientctl.local.worlds import World

TURNS_MAX = 2000


class Settling:
    """Drives controllers over a world, and plays the kubelet."""

    def __init__(self, world: World, *controllers: Controller) -> None:
        self.world = world
        self._waiting: dict[tuple[int, Key], None] = {}
        self._controllers = controllers
        for number, controller in enumerate(controllers):

            def notice(change: Any, number: int = number, which: Controller = controller) -> None:
                for key in which.keys(world.cluster, change):
                    self._waiting[number, key] = None

            store = world.cluster.store
            for resource in controller.watches or (None,):
                store.subscribe(resource, notice)
            for resource in controller.watches or store.resources():
                for obj in store.objects(resource):
                    notice(Change(resource, "ADDED", 0, obj))

    def settle(self) -> None:
        """Let the controllers work until they rest; fails when they never do."""
        for _ in range(TURNS_MAX):
            if not self._waiting:
                return
            number, key = next(iter(self._waiting))
            del self._waiting[number, key]
            controller = self._controllers[number]
            for command in controller.decide(self.world.cluster, key):
                perform(self.world.cluster, command, controller.name)
        raise AssertionError(f"the controllers never rest: {list(self._waiting)[:5]}")

    def pods(self) -> list[Any]:
        return self.world.cluster.store.objects(PODS)

    def make_ready(self, name: str) -> None:
        """The kubelet reports one pod running and ready."""
        store = self.world.cluster.store
        pod = store.get(PODS, "shop", name)
        number = int("".join(filter(str.isdigit, pod["metadata"]["uid"])))
        status = {
            "phase": "Running",
            "podIP": f"10.244.1.{number}",
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        store.put(PODS, {**pod, "status": status})

    def finish(self, name: str) -> None:
        """The kubelet has ended a deleted pod."""
        self.world.cluster.store.remove(PODS, "shop", name)
