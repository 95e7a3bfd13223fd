"""The row of a pod: its STATUS and RESTARTS are the two that need thought."""

from __future__ import annotations

import datetime
from typing import Any, Final

from ambientctl.local.apiserver.core.durations import age, human, parse_time
from ambientctl.local.apiserver.core.status import Object

_NONE: Final = "<none>"


def pod_cells(pod: Object, now: datetime.datetime) -> list[Any]:
    """Name, Ready, Status, Restarts, Age, IP, Node, Nominated Node, Readiness Gates."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    states = status.get("containerStatuses") or []
    ready = sum(bool(state.get("ready")) for state in states)
    return [
        metadata["name"],
        f"{ready}/{len(spec.get('containers') or ())}",
        reason(pod),
        _restarts(states, now),
        age(metadata.get("creationTimestamp"), now),
        status.get("podIP") or _NONE,
        spec.get("nodeName") or _NONE,
        status.get("nominatedNodeName") or _NONE,
        _NONE,
    ]


def reason(pod: Object) -> str:
    """The STATUS column: the most telling word about the pod."""
    status = pod.get("status") or {}
    word = str(status.get("reason") or status.get("phase") or "")
    initialising = _init_reason(pod)
    if initialising:
        word = initialising
    else:
        word = _container_reason(status) or word
        running = any(
            "running" in (s.get("state") or {}) for s in status.get("containerStatuses") or ()
        )
        if word == "Completed" and running:
            word = "Running" if _is_ready(status) else "NotReady"
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in {"Succeeded", "Failed"}:
            return "Terminating"
    return word


def _init_reason(pod: Object) -> str:
    status = pod.get("status") or {}
    states = status.get("initContainerStatuses") or []
    total = len(pod["spec"].get("initContainers") or ())
    for i, found in enumerate(states):
        state = found.get("state") or {}
        terminated = state.get("terminated")
        if terminated is not None and terminated.get("exitCode") == 0:
            continue
        if terminated is not None:
            why = terminated.get("reason") or f"ExitCode:{terminated.get('exitCode')}"
            return f"Init:{why}"
        waiting = (state.get("waiting") or {}).get("reason", "")
        if waiting and waiting != "PodInitializing":
            return f"Init:{waiting}"
        return f"Init:{i}/{total}"
    return ""


def _container_reason(status: Object) -> str:
    word = ""
    for found in reversed(status.get("containerStatuses") or []):
        state = found.get("state") or {}
        waiting, terminated = state.get("waiting") or {}, state.get("terminated")
        if waiting.get("reason"):
            word = str(waiting["reason"])
        elif terminated is not None:
            signal = terminated.get("signal")
            exited = f"Signal:{signal}" if signal else f"ExitCode:{terminated.get('exitCode', 0)}"
            word = str(terminated.get("reason") or exited)
    return word


def _is_ready(status: Object) -> bool:
    conditions = status.get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _restarts(states: list[Object], now: datetime.datetime) -> str:
    count = sum(int(state.get("restartCount", 0)) for state in states)
    ends = [
        parse_time(ended)
        for state in states
        if (ended := ((state.get("lastState") or {}).get("terminated") or {}).get("finishedAt"))
    ]
    known = [end for end in ends if end is not None]
    if count and known:
        return f"{count} ({human((now - max(known)).total_seconds())} ago)"
    return str(count)
