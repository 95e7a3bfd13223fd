"""The story of the demo, in the order in which it is told."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from ambient.api.ports import HBONE_PORT
from ambientctl.demo.checks import Check, CheckFailedError
from ambientctl.demo.objects import DENY_CLIENT, DENY_DELETE, SPLIT, STRICT
from ambientctl.demo.stage import APPS, INSIDE, NAMESPACE, OUTSIDE, Stage, marker, until

REDIRECTION: Final = "ambient.istio.io/redirection"
"""First bytes of a TLS connection (RFC 8446, section 5.1)."""
SPLIT_REQUESTS: Final = 500
SPLIT_V2: Final = range(25, 81)
"""Accepted answers of v2 out of 500 at 10 %: 50 within 3.7 and 4.5 standard deviations."""

ECHO_CLIENT: Final = """
import socket, sys
peer = socket.create_connection(("tcp-echo", 9000), 10)
lines = peer.makefile("rb")
for line in sys.stdin.buffer:
    peer.sendall(line)
    sys.stdout.buffer.write(lines.readline())
    sys.stdout.buffer.flush()
"""
COUNT_CLIENT: Final = """
import collections, http.client, json, sys
seen, peer = collections.Counter(), http.client.HTTPConnection("reviews", 9080, timeout=10)
for _ in range(int(sys.argv[1])):
    peer.request("GET", "/reviews/0")
    answer = peer.getresponse()
    body = answer.read()
    seen[json.loads(body)["version"] if answer.status == 200 else str(answer.status)] += 1
print(json.dumps(seen))
"""


async def plain_http(stage: Stage) -> str:
    """Every application answers a client beside it and one in another namespace."""
    for client in (INSIDE, OUTSIDE):
        status, body = await stage.curl(client, f"http://productpage.{NAMESPACE}:9080/productpage")
        if status != 200:
            raise CheckFailedError(f"productpage answers {client[0]} with {status}: {body}")
    return "productpage answers 200 to a client inside and to one outside the namespace"


async def readable_before(stage: Stage) -> str:
    """A capture of the link between the nodes shows the request in clear."""
    payload = await request_on_the_wire(stage, text := marker())
    if text.encode() not in payload:
        raise CheckFailedError(f"{len(payload)} bytes captured, none of them the request")
    return f"the request can be read among {len(payload)} captured bytes"


async def request_on_the_wire(stage: Stage, text: str) -> bytes:
    """What crosses the link while the client asks a pod on the other node for ``text``."""
    _, address = await stage.pod_on_another_node(INSIDE)
    async with stage.mesh.capture(await stage.mesh.node_of(*INSIDE)) as capture:
        status, body = await stage.curl(INSIDE, f"http://{address}:9080/health?{text}")
        await capture.settle()
        if status != 200:
            raise CheckFailedError(f"http://{address}:9080 answers {status}: {body}")
        return capture.payload()


async def connection_before(stage: Stage) -> str:
    """The connection that was opened before the namespace is labelled carries a line."""
    assert stage.echo is not None
    if await stage.echo("before\n") != "before\n":
        raise CheckFailedError("the echo service did not echo")
    return "a TCP connection to tcp-echo is open and echoes"


async def enrol(stage: Stage) -> str:
    """Label the namespace, as a user would, and wait until every pod is redirected."""
    for app in (*APPS, INSIDE[0]):
        stage.process_ids[app] = await stage.mesh.process_ids(app, NAMESPACE)
    await stage.kubectl("label", "namespace", NAMESPACE, "istio.io/dataplane-mode=ambient")
    return await until(lambda: redirected(stage, True))


async def redirected(stage: Stage, wanted: bool) -> str | None:
    """A sentence once all pods (or none) are redirected; None until then."""
    pods = (await stage.get("pods", "-n", NAMESPACE))["items"]
    pods = [pod for pod in pods if pod["metadata"].get("labels", {}).get("app")]
    marks = [pod["metadata"].get("annotations", {}).get(REDIRECTION) for pod in pods]
    if all(mark == ("enabled" if wanted else None) for mark in marks):
        return f"{len(pods)} pods {'entered' if wanted else 'left'} the mesh"
    return None


async def same_processes(stage: Stage) -> str:
    """Nothing was restarted."""
    for app, before in stage.process_ids.items():
        now = await stage.mesh.process_ids(app, NAMESPACE)
        if now != before:
            raise CheckFailedError(f"{app} was restarted: process ids {before} became {now}")
    return f"{sum(map(len, stage.process_ids.values()))} processes have the ids that they had"


async def connection_after(stage: Stage) -> str:
    """The old connection is still the same connection."""
    assert stage.echo is not None
    if await stage.echo("after\n") != "after\n":
        raise CheckFailedError("the connection from before did not survive")
    return "the TCP connection from before still echoes"


async def tunnelled(stage: Stage) -> str:
    """New connections are HBONE: the wire shows TLS to port 15008 and nothing in clear."""
    await until(lambda: seen_in_access_log(stage))
    _, address = await stage.pod_on_another_node(INSIDE)
    text = marker()
    async with stage.mesh.capture(await stage.mesh.node_of(*INSIDE)) as capture:
        status, _ = await stage.curl(INSIDE, f"http://{address}:9080/health?{text}")
        await capture.settle()
        segments = list(capture.segments)
        payload = capture.payload()
    if status != 200:
        raise CheckFailedError(f"http://{address}:9080 answers {status} through the mesh")
    if text.encode() in payload or b"HTTP/1.1" in payload:
        raise CheckFailedError("the request can still be read on the link")
    tunnel = [s for s in segments if HBONE_PORT in (s.source.port, s.destination.port)]
    if not any(s.payload for s in tunnel):
        raise CheckFailedError(f"no byte went to or from port {HBONE_PORT}")
    return f"{sum(len(s.payload) for s in tunnel)} bytes of TLS on port {HBONE_PORT}, none in clear"


async def seen_in_access_log(stage: Stage) -> str | None:
    """Both SPIFFE ids of a connection between the nodes, once a ztunnel has logged them."""
    name, address = await stage.pod_on_another_node(INSIDE)
    await stage.curl(INSIDE, f"http://{address}:9080/health")
    source = f"spiffe://cluster.local/ns/{NAMESPACE}/sa/client"
    app = name.rsplit("-", 2)[0].partition("-")[0]
    target = f"spiffe://cluster.local/ns/{NAMESPACE}/sa/bookinfo-{app}"
    for pod in (await stage.get("pods", "-n", "istio-system", "-l", "app=ztunnel"))["items"]:
        log = stage.mesh.logs(pod["metadata"]["name"], "istio-system")
        for line in log.splitlines():
            if source in line and target in line and "inbound" in line:
                return f"{source} to {target}, inbound on {pod['spec']['nodeName']}"
    return None


async def both_identities(stage: Stage) -> str:
    """The access log of the destination's node names both ends of a connection."""
    return await until(lambda: seen_in_access_log(stage))


async def outsider_welcome(stage: Stage) -> str:
    """Permissive by default: a pod outside the mesh still reaches the services."""
    status, body = await stage.curl(OUTSIDE, f"http://details.{NAMESPACE}:9080/details/0")
    if status != 200:
        raise CheckFailedError(f"a client outside the mesh gets {status}: {body}")
    return "a client outside the mesh gets 200 (permissive)"


async def strict(stage: Stage) -> str:
    """Under STRICT the same client is refused, and the one inside is not."""
    await stage.apply(STRICT)

    async def refused() -> str | None:
        status, body = await stage.curl(OUTSIDE, f"http://details.{NAMESPACE}:9080/details/0")
        return None if status else body

    reason = await until(refused)
    status, body = await stage.curl(INSIDE, "http://details:9080/details/0")
    if status != 200:
        raise CheckFailedError(f"the client inside the mesh gets {status}: {body}")
    await stage.kubectl("delete", "-n", NAMESPACE, "peerauthentication", "strict")
    return f"outside: {reason}; inside: 200"


async def denied_identity(stage: Stage) -> str:
    """An AuthorizationPolicy denies one service account and no other."""
    await stage.apply(DENY_CLIENT)

    async def refused() -> str | None:
        status, body = await stage.curl(INSIDE, "http://details:9080/details/0")
        return None if status else body

    reason = await until(refused)
    other = ("productpage", NAMESPACE)
    status, body = await stage.curl(other, "http://details:9080/details/0")
    if status != 200:
        raise CheckFailedError(
            f"productpage, which the policy does not name, gets {status}: {body}"
        )
    return f"client: {reason}; productpage: 200"


async def explained(stage: Stage) -> str:
    """``ambientctl why`` names the rule that decided."""
    answer = await stage.ambientctl("why", f"{NAMESPACE}/client", f"details.{NAMESPACE}:9080")
    told = [line.strip() for line in answer.splitlines() if f"{NAMESPACE}/deny-client" in line]
    if not told:
        raise CheckFailedError(f"ambientctl why does not name the policy; it says: {answer}")
    await stage.kubectl("delete", "-n", NAMESPACE, "authorizationpolicy", "deny-client")
    return re.sub(r"\s+", " ", told[0])


async def split(stage: Stage) -> str:
    """A waypoint splits requests 90 to 10 between two versions."""
    await stage.ambientctl("waypoint", "apply", "-n", NAMESPACE, "--enroll-namespace", "--wait")
    await stage.apply(SPLIT)

    async def routed() -> str | None:
        return None if "v3" in await count_versions(stage, 30) else "routed"

    await until(routed)
    seen = await count_versions(stage, SPLIT_REQUESTS)
    told = ", ".join(f"{version}: {count}" for version, count in sorted(seen.items()))
    if set(seen) != {"v1", "v2"} or seen["v2"] not in SPLIT_V2:
        raise CheckFailedError(f"{SPLIT_REQUESTS} requests at 90/10 gave {told}")
    return f"{SPLIT_REQUESTS} requests: {told}"


async def count_versions(stage: Stage, requests: int) -> dict[str, int]:
    """How often each version of reviews (or an HTTP error) answered the client."""
    command = ["python", "-c", COUNT_CLIENT, str(requests)]
    done = await stage.mesh.exec(*INSIDE, command)
    if done.code != 0:
        return {done.err.strip().rpartition("\n")[2]: requests, "v3": 0}
    return msgspec.json.decode(done.out, type=dict[str, int])


async def denied_method(stage: Stage) -> str:
    """An L7 rule refuses DELETE with 403 and lets GET pass."""
    await stage.apply(DENY_DELETE)
    url = "http://reviews:9080/reviews/0"

    async def refused() -> str | None:
        status, body = await stage.curl(INSIDE, url, "-X", "DELETE")
        return body.strip() if status == 403 else None

    reason = await until(refused)
    status, body = await stage.curl(INSIDE, url)
    if status != 200:
        raise CheckFailedError(f"GET gets {status}: {body}")
    return f"DELETE: 403 {reason}; GET: 200"


async def leave(stage: Stage) -> str:
    """Without the labels everything works as before, in clear, on the same old connection."""
    labels = ("istio.io/dataplane-mode-", "istio.io/use-waypoint-")
    await stage.kubectl("label", "namespace", NAMESPACE, *labels)
    left = await until(lambda: redirected(stage, False))
    await plain_http(stage)

    async def readable() -> str | None:
        payload = await request_on_the_wire(stage, text := marker())
        return "requests can be read again" if text.encode() in payload else None

    seen = await until(readable)
    await connection_after(stage)
    return f"{left}; {seen}; the first connection still echoes"


STORY: Final = (
    Check("plain-http-before", plain_http),
    Check("readable-on-the-link-before", readable_before),
    Check("long-lived-connection-open", connection_before),
    Check("namespace-labelled", enrol),
    Check("same-process-ids", same_processes),
    Check("long-lived-connection-survives", connection_after),
    Check("new-connections-are-hbone", tunnelled),
    Check("both-spiffe-ids-in-access-log", both_identities),
    Check("outsider-reaches-services-permissive", outsider_welcome),
    Check("outsider-refused-under-strict", strict),
    Check("policy-denies-one-service-account", denied_identity),
    Check("why-names-the-rule", explained),
    Check("waypoint-splits-90-10", split),
    Check("l7-rule-denies-delete", denied_method),
    Check("unlabelled-works-in-plaintext", leave),
)


@asynccontextmanager
async def echo_connection(stage: Stage) -> AsyncIterator[None]:
    """Keep one TCP connection from the client to tcp-echo open while the story is told."""
    command = ["python", "-u", "-c", ECHO_CLIENT]
    async with stage.mesh.exec_stream(*INSIDE, command) as running:

        async def echo(line: str) -> str:
            await running.send(line.encode())
            answer = b""
            while not answer.endswith(b"\n"):
                part = await running.receive()
                if not part:
                    raise CheckFailedError(f"the connection ended: {await running.errors()}")
                answer += part
            return answer.decode()

        stage.echo = echo
        yield
