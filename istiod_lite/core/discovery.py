"""discoverySelectors of the mesh configuration: objects of other namespaces are as if not there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ambient.kube.core.resources import KubeObject
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.world import World


class Discovery:
    """Remembers every object by namespace, since a namespace may be discovered later.

    The objects are the watches' own, so that this costs a reference each.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._objects: defaultdict[str, dict[ObjectRef, KubeObject]] = defaultdict(dict)
        self._hidden: set[str] = set()

    def seen(self, kind: str, key: ObjectKey, obj: KubeObject | None) -> KubeObject | None:
        """The object if the mesh discovers its namespace, None otherwise."""
        if not key.namespace or kind == "MeshConfig":
            return obj
        ref = ObjectRef(kind, key)
        known = self._objects[key.namespace]
        if obj is None:
            known.pop(ref, None)
            return None
        if not known:
            self._look(key.namespace)
        known[ref] = obj
        return None if key.namespace in self._hidden else obj

    def flipped(self) -> Iterator[tuple[ObjectRef, KubeObject | None]]:
        """Objects that appear or disappear because selectors or labels have changed."""
        for namespace, known in list(self._objects.items()):
            if self._look(namespace):
                hidden = namespace in self._hidden
                for ref, obj in list(known.items()):
                    yield ref, None if hidden else obj

    def _look(self, namespace: str) -> bool:
        """Decide again whether a namespace is discovered; whether that changed."""
        metadata = self._world.inputs.namespace_metadata(namespace)
        labels = metadata.labels if metadata is not None else None
        facts = self._world.facts
        hidden = namespace != facts.root_namespace and not facts.config.discovers(labels)
        changed = hidden is not (namespace in self._hidden)
        if hidden:
            self._hidden.add(namespace)
        else:
            self._hidden.discard(namespace)
        return changed
