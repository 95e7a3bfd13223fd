"""What is measured, logged and traced, by destination, for one program."""

from __future__ import annotations

from ambient.api.service import NamespacedHostname, Service
from waypoint.core.objects import Problem, UnusableError
from waypoint.core.program import TELEMETRY, Program
from waypoint.core.telemetry import Telemetry, Watch, compile_telemetry, select, unknown_providers


class Watches:
    """The Telemetry objects of a program, compiled."""

    def __init__(self, program: Program) -> None:
        self._place = program.place
        self._mesh = program.guards.mesh
        self._found: list[Telemetry] = []
        self._cache: dict[NamespacedHostname | None, Watch] = {}
        problems: list[Problem] = []
        for compiled in program.objects.values():
            if compiled.config.kind != TELEMETRY:
                continue
            try:
                one, some = compile_telemetry(compiled.config)
                self._found.append(one)
                problems += some
                for part, name in unknown_providers(one, self._mesh):
                    reason = f"the mesh configuration has no provider {name!r} for this"
                    effect = "nothing is sent there"
                    field = f"spec.{part}.providers"
                    problems.append(Problem(compiled.config.key, field, reason, effect))
            except UnusableError as bad:
                problems.append(Problem(compiled.config.key, bad.field, bad.reason, "left out"))
        self.problems = tuple(problems)

    def of(self, service: Service | None) -> Watch:
        """For a service; None means a pod's own address."""
        key = service.key if service is not None and self._found else None
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = select(self._found, service, self._place, self._mesh)
        return found
