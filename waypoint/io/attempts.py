"""From a plan to a response: attempts at endpoints until one counts, within the route's time."""

from __future__ import annotations

import math
from typing import Final

import trio

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core.cluster import Cluster
from waypoint.core.decision import Plan, Upstream
from waypoint.core.grpc import http_status
from waypoint.core.grpc_messages import GrpcMessages
from waypoint.core.hash_policy import HashKey
from waypoint.core.host import Host
from waypoint.core.local_reply import NO_HEALTHY_UPSTREAM, PER_TRY_TIMEOUT, timed_out
from waypoint.core.message import Headers, Reply, Request, Response
from waypoint.core.message_limits import LIMITS
from waypoint.core.outlier import Cause
from waypoint.core.record import Record
from waypoint.core.reset import OVERLOADED, Reset
from waypoint.core.retry import CONNECTING, Next, Tries
from waypoint.core.retry_policy import DEFAULT_ON, NONE, asked_for
from waypoint.core.timeouts import Timeouts, timeouts_of
from waypoint.io.attempt import Attempt, Outcome
from waypoint.io.downstream import Downstream
from waypoint.io.fiber import Limit, in_task, now_s
from waypoint.io.mirror import start_mirrors
from waypoint.io.service import Service
from waypoint.io.stream_watch import StreamWatch

RETRIES_ENDED: Final = {Next.ENOUGH: "URX", Next.OVERFLOW: "UO"}
"""Response flags that say why there was no further retry."""
BY_US: Final = (Reset.OVERFLOW, Reset.LOCAL_RESET)
"""Resets that say nothing about the endpoint."""

log = get_logger("waypoint")


class Attempts:
    """The attempts of one request."""

    def __init__(
        self, service: Service, client: Downstream, request: Request, decided: Plan, record: Record
    ) -> None:
        self._service = service
        self._client = client
        self._request = request
        self._decided = decided
        self._record = record
        assert decided.upstream is not None
        codec = decided.upstream.codec(client.head.version)
        self._begun_s = now_s()
        """When the try under way began."""
        cluster = service.cluster(decided.upstream, self._begun_s)
        self._attempt = Attempt(service.upstreams, cluster, client, request, codec)
        self._cluster = cluster
        self.watch: StreamWatch | None = None
        self._limit = Limit()
        self._this: Limit | None = None
        route = decided.route
        policy = asked_for(route.retries if route is not None else NONE, request.headers)
        self._tries = Tries(policy)
        self._timeouts: Timeouts = timeouts_of(
            request, route.timeout_s if route is not None else None, policy.per_try_s
        )
        self._host: Host | None = None
        """Whom the try under way asks."""
        self._hash: HashKey | None = None
        self._keeps_to_endpoints = False
        self._last = Next.NO
        self._retrying = False

    async def run(self, upstream: Upstream) -> Reply | None:
        """None where the client got its response; else the reply that it is still owed.

        Raises ClientGoneError and BadMessageError.
        """
        if self._timeouts.total_s is not None:
            self._time_what_follows_the_request(self._timeouts.total_s)
        cluster = self._cluster
        policy = cluster.settings.balancer.hash_policy
        self._hash = policy.key(self._request) if policy is not None else None
        self._keeps_to_endpoints = self._hash is not None or self._decided.session is not None
        if self._tries.policy.attempts and self._tries.policy.on & ~DEFAULT_ON:
            body = self._client.body
            body.replay_bytes = max(body.replay_bytes, LIMITS.retry_bytes)
        mirrors, total_s = self._decided.mirrors, self._timeouts.total_s
        copies = (
            start_mirrors(self._service, self._client, self._request, mirrors, total_s)
            if mirrors
            else ()
        )
        if self.watch is not None:
            self._attempt.beat = self.watch.beat
        reply: Reply | None = None
        said = self._count_messages() if self._record.grpc else None
        try:
            with self._limit:
                reply = await self._until_one_counts(cluster, upstream)
        finally:
            if self._retrying:
                cluster.count(retries=-1)
            if not self._client.body.complete:
                for copy in copies:
                    copy.lose()
            self._record.sent = self._attempt.sent
            self._note_end(said)
            self._record.received += self._attempt.upgraded_received
        if self._limit.cancelled_caught:
            self._too_slow(cluster)
            cluster.counts.timeouts += 1
            return timed_out(silent=self._timeouts.silent)
        return reply

    def _count_messages(self) -> tuple[GrpcMessages, GrpcMessages]:
        """Of a gRPC call, both ways."""
        asked, answered = GrpcMessages(), GrpcMessages()
        self._client.body.watch, self._attempt.watch = asked.feed, answered.feed
        return asked, answered

    def _note_end(self, said: tuple[GrpcMessages, GrpcMessages] | None) -> None:
        record, status = self._record, None
        if self._attempt.trailers:
            record.response_trailers = Headers(self._attempt.trailers)
            status = record.response_trailers.first("grpc-status")
        if said is None:
            return
        record.request_messages, record.response_messages = said[0].count, said[1].count
        if status is None and record.response_headers is not None:
            status = record.response_headers.first("grpc-status")
        record.grpc_status = status or ""

    def _time_what_follows_the_request(self, timeout_s: float) -> None:
        body, limit = self._client.body, self._limit
        if body.complete:
            limit.deadline_s = self._begun_s + timeout_s
        else:
            body.when_complete = lambda: limit.move(now_s() + timeout_s)

    async def _until_one_counts(self, cluster: Cluster, upstream: Upstream) -> Reply | None:
        tries = self._tries
        while True:
            host = self._pick(cluster, upstream)
            if host is None:
                return NO_HEALTHY_UPSTREAM
            if cluster.full:
                cluster.counts.overflows += 1
                return OVERLOADED
            self._host, self._last = host, Next.NO
            outcome = None
            cluster.begun(host)
            try:
                if self._timeouts.per_try_s is None:
                    outcome = await self._attempt.run(host, self._judge)
                else:
                    outcome = await self._within(self._timeouts.per_try_s, host)
            finally:
                cluster.over(host)
            if outcome is not None and outcome.passed:
                return None
            self._note_failure(cluster, host, outcome)
            reply = self._judge_failure(cluster, outcome)
            if reply is not None:
                return reply
            cluster.retried(now_s())
            if not self._retrying:
                self._retrying = True
                cluster.count(retries=1)  # one place for all retries of a request
            async with in_task():
                await trio.sleep(tries.pause_s(self._service.draw()))
            self._begun_s = now_s()
            self._timeouts.tell(self._request.headers, self._limit.deadline_s - self._begun_s)

    def _pick(self, cluster: Cluster, upstream: Upstream) -> Host | None:
        policy, tries = self._tries.policy, self._tries
        at_s = self._begun_s
        visit, allowed = self._decided.visit, upstream.allowed
        host = None
        if visit is not None and not tries.tried:
            host = cluster.host_at(visit.address, at_s)
        if host is None or (allowed is not None and host.key not in allowed):
            host = cluster.pick(
                at_s,
                self._hash.value if self._hash is not None else None,
                tried=tries.tried if policy.avoid_tried else (),
                allowed=allowed,
                remote=policy.remote_localities,
            )
        self._record.attempts += 1
        if host is not None:
            tries.tried.append(host.key)
            self._record.target = host.target
        return host

    async def _within(self, time_s: float, host: Host) -> Outcome | None:
        """One attempt; None where it took longer."""
        self._this = Limit(self._begun_s + time_s)
        with self._this:
            return await self._attempt.run(host, self._judge)
        return None

    def _note_failure(self, cluster: Cluster, host: Host, outcome: Outcome | None) -> None:
        """Of an attempt without a response: that counts against the endpoint."""
        if outcome is None:
            self._noticed(cluster, host, cluster.failed(host, now_s(), timeout=True))
        elif outcome.reset is not None and outcome.reset not in BY_US:
            self._noticed(cluster, host, cluster.failed(host, now_s()))

    def _judge(self, response: Response) -> bool:
        """The head of a response: the client's, unless another try is worth it."""
        cluster, host = self._cluster, self._host
        assert host is not None
        at_s = now_s()
        if cluster.detector is not None:
            status = http_status(response) if self._record.grpc else response.status
            self._noticed(cluster, host, cluster.answered(host, status, at_s))
        if self._client.body.replayable:
            self._last = self._tries.after_response(response.status, response.headers, self._room)
            if self._last is Next.RETRY:
                return False
        record = self._record
        if self._this is not None:
            self._this.move(math.inf)
        if self._decided.filters:
            self._decided.edit(response)
        if self._keeps_to_endpoints:
            self._remember(response, host)
        record.upstream_ms = round((at_s - self._begun_s) * 1000)
        self._service.stamp(response.headers, record.upstream_ms)
        record.response_headers = response.headers
        record.status, record.details = response.status, "via_upstream"
        if self._last is not Next.NO:
            record.add_flag(self._why_no_retry(cluster))
        if response.status == 101:
            self._limit.move(math.inf)
            if self.watch is not None:
                self.watch.stop()
        return True

    def _room(self) -> bool:
        """May the cluster have another retry?"""
        return self._cluster.retry_room(now_s(), self._retrying)

    def _remember(self, response: Response, host: Host) -> None:
        """Let the client come back to the same endpoint, where the configuration wants it."""
        if self._hash is not None and self._hash.set_cookie:
            response.headers.add("set-cookie", self._hash.set_cookie)
        if (session := self._decided.session) is not None:
            address = str(host.target.address)
            session.tell(response, address, self._decided.visit, self._request.at_s)

    def _judge_failure(self, cluster: Cluster, outcome: Outcome | None) -> Reply | None:
        """The reply that a try without a response ends in; None where another one follows."""
        if outcome is not None and outcome.reset is None:
            return None  # a response that asks for a retry
        reset = outcome.reset if outcome is not None else None
        cause = outcome.cause if outcome is not None else ""
        self._record.cause = cause
        started = self._client.started
        retried = self._tries.retries > 0
        self._last = Next.NO
        if not started and self._client.body.replayable:
            sent = reset not in CONNECTING
            self._last = self._tries.after_reset(reset or Reset.LOCAL_RESET, self._room, sent=sent)
            if self._last is Next.RETRY:
                return None
        if reset is None:
            reply = timed_out(PER_TRY_TIMEOUT, silent=self._timeouts.silent)
        elif reset is Reset.OVERFLOW:
            cluster.counts.overflows += 1
            reply = OVERLOADED
        else:
            reply = reset.reply(cause, retried=retried, started=started)
        ended = self._why_no_retry(cluster)
        return reply._replace(flag=f"{ended},{reply.flag}") if ended else reply

    def _why_no_retry(self, cluster: Cluster) -> str:
        """The response flag where a retry was wanted and could not be; counted."""
        cluster.counts.retry_limits += self._last is Next.ENOUGH
        cluster.counts.retry_overflows += self._last is Next.OVERFLOW
        return RETRIES_ENDED.get(self._last, "")

    def _too_slow(self, cluster: Cluster) -> None:
        """The route's time is over: that counts against the endpoint that was asked last."""
        host = cluster.hosts.get(self._tries.tried[-1]) if self._tries.tried else None
        if host is not None:
            cause = cluster.failed(host, now_s(), timeout=True)
            self._noticed(cluster, host, cause)

    def _noticed(self, cluster: Cluster, host: Host, cause: Cause | None) -> None:
        if cause is not None:
            log.warning(
                Event.ENDPOINT_EJECTED,
                endpoint=str(host.target.address),
                workload=host.target.workload.uid,
                cluster=cluster.name,
                reason=cause.value,
                ejected=cluster.detector.ejected if cluster.detector is not None else 0,
                endpoints=len(cluster.hosts),
            )
