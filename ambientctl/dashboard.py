"""``ambientctl dashboard``: web pages of the mesh by a local port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Any, Final, NamedTuple

import click
import trio

from ambient.api.errors import MeshError
from ambient.api.ports import CONTROL_HTTP_PORT
from ambient.kube.core.errors import KubeError
from ambient.kube.core.resources import SERVICE_ACCOUNTS
from ambient.kube.io.client import KubeClient
from ambient.kube.io.port_forward import forwarded
from ambientctl.cluster import Cluster, cluster_options
from ambientctl.console import run
from ambientctl.global_options import system_option
from ambientctl.reach import PodPort, port_of, running_pods

ACCOUNT: Final = "ambient-dashboard"
AUDIENCE: Final = "ambient-dashboard"
TOKEN_SECONDS: Final = 8 * 3600
READ_BYTES: Final = 64 * 1024


class Page(NamedTuple):
    """Where a web page is served."""

    selector: str
    port: int
    path: str
    remedy: str
    token: bool = False


PACK: Final = "kubectl apply -k manifests/observability"
PAGES: Final = {
    "mesh": Page("app=istiod", CONTROL_HTTP_PORT, "/dashboard/", "ambientctl install", token=True),
    "grafana": Page("app=grafana", 3000, "/", PACK),
    "jaeger": Page("app=jaeger", 16686, "/", PACK),
    "prometheus": Page("app=prometheus", 9090, "/", PACK),
}


@click.command("dashboard")
@click.argument("name", type=click.Choice(sorted(PAGES)), default="mesh")
@click.option("-p", "--port", type=click.IntRange(0, 65535), default=0, help="Local port (any).")
@click.option("--address", default="127.0.0.1", show_default=True, help="Local address.")
@click.option("--browser/--no-browser", default=True, help="Open it in the browser.")
@system_option
@cluster_options
def command(
    cluster: Cluster, name: str, port: int, address: str, browser: bool, system: str
) -> None:
    """Open a web page of the mesh until Ctrl-C.

    NAME is mesh (graph, workloads, policies, certificates, problems), grafana, jaeger or
    prometheus. The page of the mesh asks for a token, which this command gets from the API
    server for the account ambient-dashboard; it is valid for eight hours.
    """

    def ready(url: str, once: str) -> None:
        click.echo(url)
        if browser:
            click.launch(once)

    run(partial(serve, cluster, PAGES[name], system, (address, port), ready))


class Once:
    """An address that leads to another, one time: other users of the machine see what a browser is
    started with, and must not find a token there.
    """

    def __init__(self, to: str) -> None:
        self._to = to
        self._left = token_urlsafe(16)
        self.path: Final = f"/once/{self._left}"

    def answer(self, request: bytes) -> bytes | None:
        """To the first bytes of a connection; None where they are about something else."""
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0]
        if method != b"GET" or not path.startswith(b"/once/"):
            return None
        if not self._left or not compare_digest(path, self.path.encode()):
            return _answer("410 Gone", "", "this address leads to the page once\n")
        self._left = ""
        return _answer("303 See Other", f"Location: {self._to}\r\n", "")


def _answer(status: str, header: str, body: str) -> bytes:
    return (
        f"HTTP/1.1 {status}\r\n{header}Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


async def serve(
    cluster: Cluster,
    page: Page,
    system: str,
    at: tuple[str, int],
    ready: Callable[[str, str], Any],
) -> None:
    """Forward a local port to the page until cancelled; ``ready`` gets the page's address, and one
    that leads there once.

    Raises MeshError where nobody serves the page, or the port is taken.
    """
    async with cluster.connect() as kube:
        pods = await running_pods(kube, system, page.selector)
        if not pods:
            raise MeshError(f"no pod {page.selector} runs in {system}", hint=page.remedy)
        fragment = f"#token={await token(kube, system)}" if page.token else ""
        host, port = at
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            raise MeshError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                hint="choose another --port, or 0 for any that is free",
            ) from None
        bound = listeners[0].socket.getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        origin, once = f"http://{shown}:{bound[1]}", Once(f"{page.path}{fragment}")
        ready(f"{origin}{page.path}{fragment}", f"{origin}{once.path}")
        to = port_of(pods[0], page.port)
        await trio.serve_listeners(_forward_to(kube, to, once), listeners)


async def token(kube: KubeClient, system: str) -> str:
    """A token that opens the page and nothing else. Raises MeshError with the remedy."""
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"name": ACCOUNT, "namespace": system},
        "spec": {"audiences": [AUDIENCE], "expirationSeconds": TOKEN_SECONDS},
    }
    try:
        answer = await kube.create(SERVICE_ACCOUNTS, body, "token")
    except KubeError as error:
        raise MeshError(
            f"no token for the account {system}/{ACCOUNT}: {error}",
            hint=f"you need the right to create serviceaccounts/token in {system}",
        ) from error
    return str(answer["status"]["token"])


def _forward_to(
    kube: KubeClient, to: PodPort, once: Once
) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def connection(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                # Browsers open connections that they may not need.
                first = await stream.receive_some(READ_BYTES)
                answer = once.answer(first)
                if answer is not None:
                    await stream.send_all(answer)
                elif first:
                    await forward(stream, first)
        except trio.BrokenResourceError:
            return  # the browser has gone
        except MeshError as error:
            click.echo(f"error: {error}", err=True)

    async def forward(stream: trio.SocketStream, first: bytes) -> None:
        async with (
            forwarded(kube, to.namespace, to.pod, to.port) as far,
            trio.open_nursery() as nursery,
        ):
            await far.send_all(first)
            nursery.start_soon(_copy, stream, far, nursery.cancel_scope)
            nursery.start_soon(_copy, far, stream, nursery.cancel_scope)

    return connection


async def _copy(
    source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, both: trio.CancelScope
) -> None:
    """One direction; a browser's connection ends as a whole."""
    try:
        while data := await source.receive_some(READ_BYTES):
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError, MeshError):
        pass
    both.cancel()
