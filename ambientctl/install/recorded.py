"""What an installation was asked for, kept in the cluster, so that an upgrade asks for it again.
Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import yaml

from ambient.api.errors import MeshError
from ambientctl.install.plan import (
    REVISION_LABEL,
    Manifest,
    Plan,
    Wish,
    chosen_values,
    planned,
)
from ambientctl.manifests.template import DEFAULT_REVISION, REVISION
from ambientctl.manifests.values import joined

NAME: Final = "ambientctl-values"
"""Of the ConfigMap; a revision is appended."""
PROFILES, VALUES = "profiles", "values.yaml"
IMAGE: Final = "image"
_RELEASE: Final = re.compile(r":\d+\.\d+\.\d+[^:/@]*$")


class Recorded(NamedTuple):
    """Profiles, and the values of files and ``--set``, without defaults."""

    profiles: tuple[str, ...] = ()
    values: Mapping[str, Any] = {}

    def with_wish(self, wish: Wish) -> Recorded:
        """What is asked for now, over what was: profiles replace each other, values are merged."""
        return Recorded(wish.profiles or self.profiles, joined(self.values, chosen_values(wish)))

    def upgraded(self, version: str) -> Recorded:
        """With that release of an image whose tag is a release; digests and other tags stay."""
        image = self.values.get(IMAGE)
        if not isinstance(image, str) or not _RELEASE.search(image):
            return self
        return self._replace(values={**self.values, IMAGE: _RELEASE.sub(f":{version}", image)})

    def plan(self, namespace: str) -> Plan:
        """What it amounts to. Raises MeshError for a profile or value that there is not."""
        revision = str(self.values.get(REVISION, DEFAULT_REVISION))
        record = config_map(self, revision, namespace)
        return planned(self.profiles, self.values, namespace, record)

    def lines(self) -> Iterator[str]:
        """``a.b=c``, for people."""
        yield from _flat("", self.values)


def _flat(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    elif path:
        yield f"{path}={value if isinstance(value, str) else json.dumps(value)}"


def config_map(recorded: Recorded, revision: str, namespace: str) -> Manifest:
    """The object that keeps it."""
    name = NAME if revision == DEFAULT_REVISION else f"{NAME}-{revision}"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {
            PROFILES: " ".join(recorded.profiles),
            VALUES: yaml.safe_dump(dict(recorded.values), sort_keys=False),
        },
    }


def read(present: Iterable[Manifest], revision: str) -> Recorded:
    """Of an installation's objects; empty where an earlier version kept nothing. Raises MeshError
    for what somebody has broken.
    """
    for obj in present:
        metadata = obj["metadata"]
        mine = (metadata.get("labels") or {}).get(REVISION_LABEL) == revision
        if obj["kind"] != "ConfigMap" or not metadata["name"].startswith(NAME) or not mine:
            continue
        data = obj.get("data") or {}
        try:
            values = yaml.safe_load(data.get(VALUES, "")) or {}
        except yaml.YAMLError:
            values = None
        if not isinstance(values, dict):
            raise MeshError(
                f"ConfigMap {metadata['namespace']}/{metadata['name']} holds no values",
                hint="mend it, or --reset-values",
            )
        return Recorded(tuple(str(data.get(PROFILES, "")).split()), values)
    return Recorded()
