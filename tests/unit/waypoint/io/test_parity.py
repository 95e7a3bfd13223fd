"""What services have without a waypoint they keep behind one, in every version of HTTP."""

from __future__ import annotations

from collections import Counter

import h11
import pytest

from ambient.api.service import AppProtocol, Port
from tests.unit.waypoint.io.http2_peers import GET, http2_app, http2_caller
from tests.unit.waypoint.io.rig import http_app, read_request, rig
from tests.unit.waypoint.io.test_safeguards import register
from tests.unit.waypoint.sample import REVIEWS, config, service, virtual_service, workload

BOTH = ("127.0.1.1", "127.0.1.2")
VERSIONS = [("1.1", "1.1"), ("2", "1.1"), ("1.1", "2"), ("2", "2")]
"""Of the client, and of the application."""


def declare(made, version):
    protocol = AppProtocol.HTTP2 if version == "2" else AppProtocol.HTTP11
    port = Port(9080, 9080, protocol)
    register(made, service(ports=(port,)))
    for number, ip in enumerate(BOTH, 1):
        name = f"reviews-v{number}"
        register(made, workload(name, ip, f"v{number}", services={REVIEWS: (port,)}))


async def client(made, version):
    """A function that asks once: status and body of the answer."""
    if version == "2":
        two = await http2_caller(made)

        async def ask(**headers):
            head = [*GET.items(), *((k.replace("_", "-"), v) for k, v in headers.items())]
            answer = await two.answer(await two.send(head))
            return answer.status, answer.json["version"]
    else:
        one = await made.caller()

        async def ask(**headers):
            answer = await one.get("/", **headers)
            return answer.status, answer.json["version"]

    return ask


def app_of(version, name):
    return http2_app(name) if version == "2" else http_app(name)


@pytest.mark.parametrize(("asks", "speaks"), VERSIONS)
async def test_pain_51_an_endpoint_that_refuses_is_retried_at_another(asks, speaks):
    async with rig(apps=False) as made:
        declare(made, speaks)
        await made.app(BOTH[1], app_of(speaks, "v2"))
        ask = await client(made, asks)
        assert [await ask() for _ in range(8)] == [(200, "v2")] * 8


@pytest.mark.parametrize("asks", ["1.1", "2"])
async def test_pain_51_retries_of_a_virtual_service_hold(asks):
    seen: list[str] = []

    async def unable(stream):
        http = h11.Connection(h11.SERVER)
        while (await read_request(http, stream))[0] is not None:
            seen.append("unable")
            wire = http.send(h11.Response(status_code=503, headers=[("content-length", "0")]))
            await stream.send_all(wire + http.send(h11.EndOfMessage()))
            http.start_next_cycle()

    async with rig(apps=False) as made:
        declare(made, "1.1")
        await made.app(BOTH[0], unable)
        await made.app(BOTH[1], http_app("v2"))
        made.configure(
            virtual_service(
                {
                    "route": [{"destination": {"host": "reviews"}}],
                    "retries": {"attempts": 2, "retryOn": "5xx"},
                }
            )
        )
        ask = await client(made, asks)
        while not seen:  # some of them come to the one that cannot
            assert await ask() == (200, "v2")


@pytest.mark.parametrize(("asks", "speaks"), VERSIONS)
async def test_pain_51_one_key_reaches_one_endpoint(asks, speaks):
    """Of several clients, on several connections; different keys are spread."""
    async with rig(apps=False) as made:
        declare(made, speaks)
        for number, ip in enumerate(BOTH, 1):
            await made.app(ip, app_of(speaks, f"v{number}"))
        policy = {"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}}
        made.configure(
            config("DestinationRule", "reviews", {"host": "reviews", "trafficPolicy": policy})
        )
        clients = [await client(made, asks) for _ in range(2)]
        homes = Counter()
        for user in range(24):
            found = {(await ask(x_user=f"user-{user}"))[1] for ask in clients for _ in range(2)}
            (home,) = found
            homes[home] += 1
        assert set(homes) == {"v1", "v2"}


@pytest.mark.parametrize("asks", ["1.1", "2"])
async def test_pain_51_http2_to_the_application_is_kept(asks):
    """A port that declares HTTP/2 gets it, and requests of many clients share its connections."""
    async with rig(apps=False) as made:
        declare(made, "2")
        for number, ip in enumerate(BOTH, 1):
            await made.app(ip, http2_app(f"v{number}"))
        for _ in range(3):
            ask = await client(made, asks)
            for _ in range(4):
                assert (await ask())[0] == 200
        assert all(count == 1 for count in made.calls.values())
