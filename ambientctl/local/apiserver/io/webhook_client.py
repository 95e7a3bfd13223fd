"""Questions to webhooks: one HTTPS request each, all of a write at the same time."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import lru_cache

import httpx
import trio

from ambient.telemetry.io.http_client import transport
from ambientctl.local.apiserver.core.webhooks import Outcome, WebhookCall

MAX_ANSWER_BYTES = 3 * 1024 * 1024


async def ask_webhooks(calls: Sequence[WebhookCall]) -> list[Outcome]:
    """The outcome of each call, in their order; a failure is an outcome."""
    outcomes = [Outcome(failure="not asked")] * len(calls)

    async def ask(place: int, call: WebhookCall) -> None:
        outcomes[place] = await _ask(call)

    async with trio.open_nursery() as nursery:
        for place, call in enumerate(calls):
            nursery.start_soon(ask, place, call)
    return outcomes


async def _ask(call: WebhookCall) -> Outcome:
    destination = call.destination
    if destination is None:
        return Outcome(failure=call.reason)
    where = f'Post "{destination.url}"'
    try:
        with trio.fail_after(call.timeout_s):
            context = _context(destination.ca_pem)
            async with httpx.AsyncClient(transport=transport(context), timeout=None) as http:
                answer = await http.post(
                    destination.url,
                    content=call.body,
                    headers={"content-type": "application/json"},
                    extensions={"sni_hostname": destination.server_name},
                )
    except trio.TooSlowError:
        return Outcome(failure=f"{where}: context deadline exceeded")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ssl.SSLError) as error:
        return Outcome(failure=f"{where}: {str(error) or type(error).__name__}")
    if answer.status_code != 200 or len(answer.content) > MAX_ANSWER_BYTES:
        return Outcome(failure=f"{where}: answered with status {answer.status_code}")
    return Outcome(answer.content)


@lru_cache(maxsize=8)
def _context(ca_pem: str) -> ssl.SSLContext:
    """Without a bundle the machine's own roots count, as Kubernetes has it."""
    return ssl.create_default_context(cadata=ca_pem or None)
