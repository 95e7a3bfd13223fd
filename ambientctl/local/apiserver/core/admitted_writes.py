"""A write with the checks that need the object as it would be stored, before it is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ambientctl.local.apiserver.core import webhooks
from ambientctl.local.apiserver.core.access import Access
from ambientctl.local.apiserver.core.cluster import Call, Cluster
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.rbac import RBAC_GROUP, SUPERUSERS
from ambientctl.local.apiserver.core.requests import Response, Target
from ambientctl.local.apiserver.core.status import Object, conflict
from ambientctl.local.apiserver.core.tokens import User
from ambientctl.local.apiserver.core.webhooks import Outcome, Proposal, WebhookCall

MAX_ROUNDS: Final = 5
"""How often the object may change under a write while webhooks are being asked about it."""


class Admission(NamedTuple):
    """Webhooks have to be asked first; ``resume`` takes their answers, one for each call."""

    calls: Sequence[WebhookCall]
    resume: Callable[[Sequence[Outcome]], Response | Admission]


class Write(NamedTuple):
    """What a request wants. ``perform`` does it, or with ``dry_run`` only tells the outcome."""

    kind: Kind
    target: Target
    user: User
    call: Call
    perform: Callable[[Call], Object]
    shown: Callable[[Object], Response]
    """The answer to the client."""
    is_deletion: bool = False


class AdmittedWrites:
    """Runs writes: at once where nobody has to be asked."""

    def __init__(self, cluster: Cluster, access: Access, new_uid: Callable[[], str]) -> None:
        self._cluster = cluster
        self._access = access
        self._new_uid = new_uid

    def run(self, write: Write) -> Response | Admission:
        """Raises ApiError for every refusal."""
        return self._round(write, None, MAX_ROUNDS)

    def _round(self, write: Write, admitted: Proposal | None, rounds: int) -> Response | Admission:
        """Store what was admitted, or find out who has to be asked."""
        kind, store = write.kind, self._cluster.store
        found = webhooks.interested(store, kind)
        guarded = kind.group == RBAC_GROUP and SUPERUSERS not in write.user.groups
        if not found and not guarded:
            return self._store(write)
        proposal = self._proposal(write)
        if guarded and proposal.new is not None:
            self._access.forbid_escalation(write.user, kind, proposal.new)
        if admitted is not None and webhooks.same_intent(proposal.new, admitted.new):
            return self._store(write)
        uid = self._new_uid()
        calls = webhooks.calls(store, self._cluster.catalogue, found, proposal, uid)
        if not calls:
            return self._store(write)
        if rounds == 0:
            raise conflict(kind.group, kind.plural, proposal.object["metadata"]["name"])

        def resume(outcomes: Sequence[Outcome]) -> Response | Admission:
            for call, outcome in zip(calls, outcomes, strict=True):
                webhooks.judge(call, outcome, uid, write.call.warnings)
            return self._round(write, proposal, rounds - 1)

        return Admission(calls, resume)

    def _store(self, write: Write) -> Response:
        return write.shown(write.perform(write.call))

    def _proposal(self, write: Write) -> Proposal:
        kind, target = write.kind, write.target
        namespace = target.namespace if kind.namespaced else ""
        name = target.name
        old = self._cluster.store.get(kind.key, namespace, name) if name else None
        new = None
        if not write.is_deletion:
            new = write.perform(write.call._replace(dry_run=True, warnings=[]))
        elif old is None:
            write.perform(write.call._replace(dry_run=True))  # says that it is not found
        operation = "DELETE" if write.is_deletion else "UPDATE" if old is not None else "CREATE"
        return Proposal(
            kind, target.subresource, operation, write.user, old, new, write.call.dry_run
        )
