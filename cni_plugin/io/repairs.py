"""Pods of the mesh that were started without the plugin: mended or evicted, counted and told of."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ambient.kube.core.objects import Pod
from ambient.kube.io.client import KubeClient
from cni_plugin.core import repair
from cni_plugin.core.repair import Policy, Repair
from cni_plugin.io import kube_reports
from cni_plugin.io.entry import Entry
from cni_plugin.io.remarks import Remarks


class Repairs:
    """Asked before a running pod is enrolled."""

    def __init__(self, policy: Policy, kube: KubeClient, remarks: Remarks) -> None:
        self._policy = policy
        self._kube = kube
        self._remarks = remarks
        self.counts: Final[Counter[tuple[str, str]]] = Counter()
        """By kind of repair and result; Istio's label values."""

    async def evicted(self, entry: Entry, pod: Pod) -> bool:
        """Whether the pod is to start again; otherwise it is redirected as it runs.

        Raises KubeError where it may not be evicted now, UnavailableError.
        """
        case = repair.Case(
            redirected=False,
            seen_by_plugin=entry.seen_by_plugin,
            member_from_start=bool(entry.member_from_start),
            replaceable=any(owner.controller for owner in pod.metadata.owner_references or ()),
        )
        if not case.member_from_start or case.seen_by_plugin:
            return False  # a label that came later, or an agent that did
        if repair.decide(self._policy, case) is Repair.MEND:
            if self._remarks.started_outside(pod, "it joins the mesh as it runs"):
                result = "success" if entry.netns is not None else "fail"
                self.counts["repair", result] += 1
            return False
        self._remarks.started_outside(pod, "it is evicted, to start again within")
        done = await kube_reports.evict(self._kube, pod)
        self.counts["delete", "success" if done else "skip"] += 1
        entry.evicted = True
        return True
