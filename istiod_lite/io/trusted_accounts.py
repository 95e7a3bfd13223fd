"""Who may ask for identities of pods on their node: as set, or as the node tunnel's DaemonSet says.

An account that is set by hand and does not fit the installation is why certificates are refused
most often; so by default the DaemonSet itself is asked.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from ambient.kube.core.resources import DAEMON_SETS
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

LABEL: Final = "app=ztunnel"
"""Istio's chart puts it on the DaemonSet, whatever its name."""
DEFAULT_ACCOUNT: Final = "ztunnel"

log = get_logger("ca")


class TrustedAccounts:
    """``current`` are ``namespace/account``. Only DaemonSets of the system namespace count: who
    may write there owns the mesh anyway.
    """

    def __init__(self, kube: KubeClient, namespace: str, configured: Collection[str]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._configured = frozenset(configured)
        self._found: dict[str, str] = {}

    @property
    def current(self) -> frozenset[str]:
        """Never empty: without a DaemonSet it is the account that installations use."""
        found = frozenset(self._found.values())
        return self._configured or found or frozenset({f"{self._namespace}/{DEFAULT_ACCOUNT}"})

    async def run(self) -> None:
        """Until cancelled; nothing to do where the accounts are set."""
        if self._configured:
            return
        events = follow(self._kube, DAEMON_SETS, namespace=self._namespace, label_selector=LABEL)
        async with events:
            async for event in events:
                if event.kind is EventKind.SYNCED:
                    continue
                name = str(event.object["metadata"]["name"])
                before = self.current
                account = None if event.kind is EventKind.DELETED else _account(event.object)
                if account is None:
                    self._found.pop(name, None)
                else:
                    self._found[name] = f"{self._namespace}/{account}"
                if self.current != before:
                    log.info(Event.TRUSTED_ACCOUNTS, accounts=sorted(self.current), source=name)


def _account(daemon_set: dict[str, Any]) -> str | None:
    """The account of its pods, None if it is not a node tunnel."""
    metadata = daemon_set.get("metadata") or {}
    # The label selector asked for this; an API server that ignores selectors must not matter.
    if (metadata.get("labels") or {}).get("app") != "ztunnel":
        return None
    spec = (daemon_set.get("spec") or {}).get("template", {}).get("spec") or {}
    return str(spec.get("serviceAccountName") or "default")
