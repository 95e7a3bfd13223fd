"""What the workers of one waypoint tell each other of a cluster: its use, and who is ejected."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from waypoint.core.host import Key
from waypoint.core.outlier import Detector, Monitor


class Use(NamedTuple):
    """What is under way in a cluster at the moment."""

    requests: int = 0
    pending: int = 0
    connections: int = 0
    retries: int = 0

    def plus(self, other: Use) -> Use:
        """Both together."""
        return Use(*map(sum, zip(self, other, strict=True)))


class Peers(Protocol):
    """One cluster as the other workers see it.

    The use that each of them publishes is read without a lock, as Envoy's threads do: where two
    take the last place at the same moment, both get it.
    """

    @property
    def changes(self) -> int:
        """Another number than before: an endpoint was ejected or came back."""
        ...

    @property
    def first(self) -> bool:
        """Is this the worker that tells what all of them know?"""
        ...

    def publish(self, use: Use) -> None:
        """What this worker has under way."""
        ...

    def others(self) -> Use:
        """What all the others have under way."""
        ...

    def blameless(self, key: Key) -> bool:
        """Has an endpoint made no mistake since its last good answer, to whichever worker?"""
        ...

    def held(
        self, detector: Detector, monitors: Mapping[Key, Monitor]
    ) -> AbstractContextManager[None]:
        """Everybody's state in ``detector`` and ``monitors``; what they are at the end is
        everybody's then. Nobody else is in such a block meanwhile."""
        ...

    def changed(self) -> None:
        """Others have to look again at who is ejected; inside of ``held``."""
        ...

    def forget(self, key: Key) -> None:
        """An endpoint has left."""
        ...

    def leave(self) -> None:
        """This worker has nothing to do with the cluster any more."""
        ...
