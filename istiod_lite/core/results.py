"""Where results go: stored if they differ, with what follows from the difference."""

from __future__ import annotations

from collections.abc import Iterable

from ambient.api.config import ConfigObject
from ambient.api.policy import Authorization
from ambient.kube.core.resources import KubeObject
from istiod_lite.core.changes import Pending, Remark
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.inputs import config_object
from istiod_lite.core.statuses import Wanted
from istiod_lite.core.waypoint_configs import WaypointConfigs
from istiod_lite.core.world import World, is_allow, is_wide


class Store:
    """Writes into the world, and into what is pending."""

    def __init__(self, world: World, pending: Pending, configs: WaypointConfigs) -> None:
        self._world = world
        self.pending = pending
        self._configs = configs
        self.remarks: dict[tuple[str, ObjectKey], tuple[Remark, ...]] = {}

    def put_authorization(self, name: str, new: Authorization | None) -> str | None:
        """The namespace whose workloads now begin or cease to be under an ALLOW policy that
        selects none of them in particular; None where that stays.
        """
        if not self._world.authorizations.put(name, new):
            return None
        namespace = name.partition("/")[0]
        names = self._world.wide_allows.setdefault(namespace, set())
        before = bool(names)
        if new is not None and is_allow(new) and is_wide(new):
            names.add(name)
        else:
            names.discard(name)
        after = bool(names)
        if not names:
            del self._world.wide_allows[namespace]
        return namespace if before != after else None

    def put_config(self, kind: str, key: ObjectKey, obj: KubeObject | None) -> None:
        """An object for waypoints; what is malformed raises ObjectError."""
        self.replace_config(
            f"{kind}/{key}", config_object(kind, key, obj) if obj is not None else None
        )

    def replace_config(self, name: str, new: ConfigObject | None) -> None:
        """The same for one that is decoded already."""
        configs = self._world.inputs.configs
        if configs.get(name) == new:
            return
        if new is None:
            del configs[name]
        else:
            configs[name] = new
        self.pending.configs.add(name)
        self.pending.waypoints |= self._configs.put(name, new)

    def put_status(self, ref: ObjectRef, wanted: Wanted) -> None:
        """What we have to say about an object."""
        statuses = self._world.statuses
        if statuses.get(ref, ()) == wanted:
            return
        if wanted:
            statuses[ref] = wanted
        else:
            del statuses[ref]
        self.pending.statuses.add(ref)

    def remark(self, kind: str, key: ObjectKey, texts: Iterable[str], hint: str = "") -> None:
        """What the author of an object should know; news only if it was not said before."""
        made = tuple(Remark(kind, key, text, hint) for text in texts)
        if self.remarks.get((kind, key), ()) == made:
            return
        if made:
            self.remarks[kind, key] = made
        else:
            self.remarks.pop((kind, key), None)
        self.pending.remarks[kind, key] = made
