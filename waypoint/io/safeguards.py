"""What a request has to pass before it is routed: external authorizers, its token, and the
authorizers of the route that it is going to take."""

from __future__ import annotations

import time

from waypoint.core.authenticate import Judged, accept, judge, may_carry_token, refusal, wanted
from waypoint.core.authz import Question, decide, questions
from waypoint.core.dispatch import Destination
from waypoint.core.filters import HeaderEdits
from waypoint.core.mesh_settings import MeshSettings
from waypoint.core.message import Reply, Request
from waypoint.core.policies import Policies
from waypoint.core.program import FilterChain
from waypoint.core.providers import ExtAuthz
from waypoint.core.request_authentication import Authentication
from waypoint.io.downstream import Body
from waypoint.io.ext_authz import Authorizers
from waypoint.io.fiber import in_task
from waypoint.io.key_store import KeyStore


class Safeguards:
    """The stages of one waypoint; they change nothing but the request."""

    def __init__(self, authorizers: Authorizers, keys: KeyStore) -> None:
        self._authorizers = authorizers
        self._keys = keys

    async def admit(
        self, mesh: MeshSettings, chain: FilterChain, request: Request, body: Body, protocol: str
    ) -> tuple[Reply | None, tuple[HeaderEdits, ...]]:
        """The answer where the request must not go on, and what authorizers do to the response."""
        response: tuple[HeaderEdits, ...] = ()
        for question in questions(chain.policies, request) if chain.policies.custom else ():
            reply, more = await self._ask(mesh, question, request, body, protocol)
            if reply is not None:
                return reply, ()
            response += more
        rules, reply = chain.authentication, None
        if rules.providers:
            if may_carry_token(rules, request):
                reply = await self._authenticate(rules, request)
            else:
                accept(rules, Judged(), request)
        if reply is None and chain.asks:
            reply, more = await self._ask_of_route(chain, request, body, protocol)
            response += more
        return reply, response

    async def _ask_of_route(
        self, chain: FilterChain, request: Request, body: Body, protocol: str
    ) -> tuple[Reply | None, tuple[HeaderEdits, ...]]:
        """The route's own authorizers, about what policies let pass; preflights carry no proof."""
        route = chain.routes.select(request) if chain.routes is not None else None
        if route is None or not route.authorizers or not decide(chain.policies, request).allowed:
            return None, ()
        if route.cors is not None and route.cors.answer(request) is not None:
            return None, ()
        response: tuple[HeaderEdits, ...] = ()
        for provider in route.authorizers:
            async with in_task():
                decision = await self._authorizers.ask(provider, request, body, protocol)
            if decision.refusal is not None:
                return decision.refusal, ()
            decision.apply(request)
            response += decision.response
        return None, response

    async def admit_connection(self, guards: Policies, to: Destination, request: Request) -> bool:
        """The same for a raw connection: only gRPC providers can be asked about one."""
        for question in questions(guards.authorization(to.service), request, http=False):
            provider = guards.mesh.providers[question.provider]
            if isinstance(provider, ExtAuthz) and provider.grpc:
                decision = await self._authorizers.ask(provider, request)
                if decision.refusal is not None and not question.dry_run:
                    return False
        return True

    async def _ask(
        self, mesh: MeshSettings, question: Question, request: Request, body: Body, protocol: str
    ) -> tuple[Reply | None, tuple[HeaderEdits, ...]]:
        provider = mesh.providers[question.provider]
        assert isinstance(provider, ExtAuthz)
        async with in_task():
            decision = await self._authorizers.ask(provider, request, body, protocol)
        if question.dry_run:
            return None, ()
        if decision.refusal is None:
            decision.apply(request)
        return decision.refusal, decision.response

    async def _authenticate(self, rules: Authentication, request: Request) -> Reply | None:
        for source in wanted(rules, request):
            await self._keys.ensure(source)
        judged: Judged = judge(rules, request, self._keys.keys, time.time())
        if judged.stale is not None and await self._keys.renew(judged.stale):
            judged = judge(rules, request, self._keys.keys, time.time())
        if judged.error:
            return refusal(judged.error, request)
        accept(rules, judged, request)
        return None
