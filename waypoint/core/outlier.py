"""Outlier detection: endpoints that fail are left out for a while (Envoy's arithmetic)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec

from waypoint.core.objects import UnusableError, boolean, duration_s, integer, mapping

LONGEST_EJECTION_S: Final = 300.0
"""Envoy's ``max_ejection_time``; a longer base ejection time takes its place."""
GATEWAY_ERRORS: Final = (502, 503, 504)


class OutlierDetection(msgspec.Struct, frozen=True, kw_only=True):
    """DestinationRule ``outlierDetection``; 0 errors switches a counter off."""

    consecutive_5xx: int = 5
    consecutive_gateway: int = 0
    consecutive_local: int = 5
    split_local: bool = False
    interval_s: float = 10.0
    base_ejection_s: float = 30.0
    max_ejection_percent: int = 10
    min_health_percent: int = 0
    """Below this share of healthy endpoints all of them are used (panic); 0 never panics."""

    @property
    def max_ejection_s(self) -> float:
        """The longest time that one ejection lasts."""
        return max(LONGEST_EJECTION_S, self.base_ejection_s)


def compile_outlier_detection(raw: Any, field: str) -> OutlierDetection:
    """Raises UnusableError."""
    spec = mapping(raw, field)

    def count(name: str, default: int) -> int:
        return integer(spec.get(name), f"{field}.{name}", default)

    def percent(name: str, default: int) -> int:
        value = count(name, default)
        if value > 100:
            raise UnusableError(f"{field}.{name}", f"{value} is more than 100")
        return value

    errors = count("consecutive5xxErrors", count("consecutiveErrors", 5))
    return OutlierDetection(
        consecutive_5xx=errors,
        consecutive_gateway=count("consecutiveGatewayErrors", 0),
        consecutive_local=count("consecutiveLocalOriginFailures", 5),
        split_local=boolean(
            spec.get("splitExternalLocalOriginErrors"), f"{field}.splitExternalLocalOriginErrors"
        ),
        interval_s=duration_s(spec.get("interval"), f"{field}.interval") or 10.0,
        base_ejection_s=duration_s(spec.get("baseEjectionTime"), f"{field}.baseEjectionTime")
        or 30.0,
        max_ejection_percent=percent("maxEjectionPercent", 10) or 10,
        min_health_percent=percent("minHealthPercent", 0),
    )


class Cause(Enum):
    """Which counter reached its limit."""

    SERVER_ERRORS = "consecutive_5xx"
    GATEWAY_ERRORS = "consecutive_gateway_failure"
    LOCAL_FAILURES = "consecutive_local_origin_failure"


@dataclass(slots=True)
class Monitor:
    """What is remembered of one endpoint. ``multiplier`` grows with each ejection."""

    server_errors: int = 0
    gateway_errors: int = 0
    local_failures: int = 0
    multiplier: int = 0
    ejected_at_s: float | None = None
    returned_at_s: float | None = None

    @property
    def ejected(self) -> bool:
        """Is the endpoint left out at the moment?"""
        return self.ejected_at_s is not None

    def clear(self) -> None:
        """Forget the errors."""
        self.server_errors = self.gateway_errors = self.local_failures = 0


class Detector:
    """Judges the endpoints of one cluster. Times are seconds of any clock that never goes back."""

    def __init__(self, settings: OutlierDetection, now_s: float) -> None:
        self.settings = settings
        self.ejected = 0
        self.refused = 0
        """Ejections that would have left too few endpoints."""
        self.next_sweep_s = now_s + settings.interval_s

    def response(self, monitor: Monitor, status: int, hosts: int, now_s: float) -> Cause | None:
        """An endpoint answered; the cause, if that ejects it. The cluster has ``hosts``."""
        if self.settings.split_local:
            monitor.local_failures = 0
        return self._count(monitor, status, hosts, now_s)

    def failure(
        self, monitor: Monitor, hosts: int, now_s: float, *, timeout: bool = False
    ) -> Cause | None:
        """An endpoint could not be reached, broke the connection, or was too slow."""
        if not self.settings.split_local:
            return self._count(monitor, 504 if timeout else 503, hosts, now_s)
        monitor.local_failures += 1
        if monitor.local_failures == self.settings.consecutive_local:
            monitor.local_failures = 0
            if self._eject(monitor, hosts, now_s):
                return Cause.LOCAL_FAILURES
        return None

    def _count(self, monitor: Monitor, status: int, hosts: int, now_s: float) -> Cause | None:
        if status < 500:
            monitor.server_errors = monitor.gateway_errors = 0
            return None
        cause = None
        if status in GATEWAY_ERRORS:
            monitor.gateway_errors += 1
            if monitor.gateway_errors == self.settings.consecutive_gateway:
                monitor.gateway_errors = 0
                if self._eject(monitor, hosts, now_s):
                    cause = Cause.GATEWAY_ERRORS
        else:
            monitor.gateway_errors = 0
        monitor.server_errors += 1
        if monitor.server_errors == self.settings.consecutive_5xx:
            monitor.server_errors = 0
            if self._eject(monitor, hosts, now_s):
                cause = Cause.SERVER_ERRORS
        return cause

    def _eject(self, monitor: Monitor, hosts: int, now_s: float) -> bool:
        if monitor.ejected:
            return False
        settings = self.settings
        if 100 * (self.ejected + 1) > settings.max_ejection_percent * hosts:
            self.refused += 1
            return False
        self.ejected += 1
        monitor.ejected_at_s = now_s
        base_s = settings.base_ejection_s
        if monitor.multiplier * base_s < settings.max_ejection_s + base_s:
            monitor.multiplier += 1
        return True

    def due(self, now_s: float) -> bool:
        """Is it time for a sweep?"""
        return now_s >= self.next_sweep_s

    def sweep(self, monitors: Collection[Monitor], now_s: float) -> bool:
        """All sweeps that are due by now; True where an endpoint came back."""
        came_back = False
        while self.due(now_s):
            at_s = self.next_sweep_s
            self.next_sweep_s = at_s + self.settings.interval_s
            if not any(one.ejected or one.multiplier for one in monitors):
                missed = (now_s - at_s) // self.settings.interval_s
                self.next_sweep_s = at_s + (missed + 1) * self.settings.interval_s
                break
            for monitor in monitors:
                came_back |= self._sweep(monitor, at_s)
        return came_back

    def _sweep(self, monitor: Monitor, now_s: float) -> bool:
        settings = self.settings
        if monitor.ejected_at_s is not None:
            lasts_s = min(settings.base_ejection_s * monitor.multiplier, settings.max_ejection_s)
            if now_s - monitor.ejected_at_s < lasts_s:
                return False
            monitor.ejected_at_s = None
            monitor.returned_at_s = now_s
            monitor.clear()
            self.ejected -= 1
            return True
        returned_s = monitor.returned_at_s
        if returned_s is not None and now_s - returned_s >= settings.interval_s:
            monitor.multiplier = max(0, monitor.multiplier - 1)
        return False

    def gone(self, monitor: Monitor) -> None:
        """The endpoint does not belong to the cluster any more."""
        if monitor.ejected:
            self.ejected -= 1
            monitor.ejected_at_s = None
