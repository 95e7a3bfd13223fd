"""What people are told about pods and namespaces: each fact once, as an event and in the log."""

from __future__ import annotations

from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.objects import Namespace, Pod
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.core import enrol
from cni_plugin.io.guest_files import is_guest
from cni_plugin.io.kube_reports import EventRecorder

UNKNOWN_LABEL_VALUE: Final = "UnknownLabelValue"
ENROLMENT_FAILED: Final = "EnrolmentFailed"
NOT_ELIGIBLE: Final = "NotEligible"
STARTED_OUTSIDE: Final = "StartedOutsideMesh"
ENROLLED: Final = "Enrolled"

log = get_logger("agent")


class Remarks:
    """Events are written by tasks of the agent's nursery: nobody waits for the API server."""

    def __init__(self, kube: KubeClient, node: str) -> None:
        self._events = EventRecorder(kube, node)
        self._nursery: trio.Nursery | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """From now on there are events; what was said before is forgotten, to be said again."""
        self._nursery = nursery
        self._events.forget_all()

    def label(self, kind: str, labelled: Pod | Namespace) -> None:
        """The mesh's label has a value that nobody knows."""
        problem = enrol.label_problem(kind, labelled)
        if not problem:
            self._events.forget(labelled.metadata.uid, UNKNOWN_LABEL_VALUE)
        elif self._tell(labelled, UNKNOWN_LABEL_VALUE, problem):
            log.warning(Event.LABEL_UNKNOWN, problem=problem)

    def eligibility(self, pod: Pod, namespace: Namespace | None) -> None:
        """The label, or the namespace's, can have no effect on this pod."""
        problem = enrol.ineligible(pod, namespace)
        if problem and self._tell(pod, NOT_ELIGIBLE, problem):
            log.info(Event.POD_NOT_ELIGIBLE, pod=_name(pod), reason=problem)

    def failure(self, pod: Pod | None, error: MeshError) -> None:
        """The pod cannot be brought into the mesh, or out of it, now."""
        text = f"{error}" + (f" ({error.hint})" if error.hint else "")
        if pod is not None and self._tell(pod, ENROLMENT_FAILED, text):
            log.warning(Event.ENROL_FAILED, pod=_name(pod), error=str(error), hint=error.hint)

    def started_outside(self, pod: Pod, how: str) -> bool:
        """The plugin was not there when the pod started; whether that is news."""
        text = f"it was started without the mesh's plugin; {how}"
        news = self._tell(pod, STARTED_OUTSIDE, text)
        if news:
            log.warning(Event.POD_REPAIRED, pod=_name(pod), how=how)
        return news

    def joined(self, pod: Pod, outside: int) -> None:
        """The pod is in; so many of its connections are older than that."""
        self._events.forget(pod.metadata.uid, ENROLMENT_FAILED)
        if outside:
            self._tell(
                pod,
                ENROLLED,
                f"in the mesh; {outside} connections that were open before stay as they are, "
                "outside of it, until they end",
            )

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        for reason in (UNKNOWN_LABEL_VALUE, ENROLMENT_FAILED, NOT_ELIGIBLE, STARTED_OUTSIDE):
            self._events.forget(uid, reason)

    def _tell(self, about: Pod | Namespace, reason: str, text: str) -> bool:
        """Whether it was news."""
        if not self._events.is_news(about.metadata.uid, reason, text):
            return False
        if self._nursery is not None and not is_guest(about.metadata.uid):
            kind = "Normal" if reason == ENROLLED else "Warning"
            self._nursery.start_soon(self._events.write, about, kind, reason, text)
        return True


def _name(pod: Pod) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"
