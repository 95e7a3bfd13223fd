"""HTTP to the API server: one connection pool, JSON in and out, errors as nouns."""

from __future__ import annotations

import gzip
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Literal, TypedDict, Unpack
from urllib.parse import quote, urlencode

import httpcore
import msgspec
import trio

from ambient.api.errors import UnavailableError
from ambient.kube.core.errors import Gone, NotFound, error_from
from ambient.kube.core.proxy import Proxy
from ambient.kube.core.resources import KubeObject, Resource
from ambient.kube.core.watch import trim
from ambient.kube.io.credentials import Credentials, Headers, load_credentials
from ambient.telemetry.io.http_client import Backend

ANSWER_S: Final = 30.0
"""Between two bytes."""
CONNECT_S: Final = 10.0
IDLE_S: Final = 5.0
"""How long a connection is kept that nobody uses."""
PAGE_SIZE: Final = 500
"""client-go's page size for full lists."""
WATCH_QUIET_S: Final = 150.0
"""A watch without a byte for so long is dead: API servers send a bookmark about every minute."""
KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A machine that vanished answers no probe: noticed within a minute, also on a quiet watch."""
TOKEN_CHECK_S: Final = 10.0
"""How long an Authorization header is used before its source is asked again."""
USER_AGENT: Final = "ambient-mesh"
HTTP_ERRORS: Final = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    httpcore.ProxyError,
)
"""Every way in which the HTTP library fails."""

Objects = list[KubeObject]
PatchKind = Literal["merge", "json", "strategic", "apply"]
PATCH_TYPES: Final[Mapping[str, str]] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",  # JSON is YAML
}


class PatchOptions(TypedDict, total=False):
    """How a patch is meant; ``kind`` is ``merge`` unless told."""

    namespace: str | None
    kind: PatchKind
    subresource: str
    field_manager: str
    force: bool
    dry_run: bool


class Listing(msgspec.Struct):
    """One page of a list."""

    items: list[KubeObject] | None = None
    metadata: dict[str, Any] = {}


class KubeClient:
    """Calls to one API server; made by ``connect``.

    Every call raises KubeError (NotFound, Conflict, Gone) when the server refuses and
    UnavailableError when it does not answer.
    """

    def __init__(
        self, credentials: Credentials, http: httpcore.AsyncConnectionPool, nursery: trio.Nursery
    ) -> None:
        self._credentials = credentials
        self._http = http
        self._nursery = nursery
        self._header: str | None = None
        self._header_until = -1.0
        self._served: dict[Resource, Resource] = {}
        """Of kinds with older versions: how this server has them."""
        self.watch_quiet_s = WATCH_QUIET_S

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        impersonation: Headers | None = None,
    ) -> AsyncIterator[KubeClient]:
        """A client for the duration of the block. Raises SettingsError.

        With neither argument: $KUBECONFIG, else the pod's service account, else ~/.kube/config.
        ``impersonation`` are headers in place of those of the context.
        """
        credentials = await trio.to_thread.run_sync(load_credentials, kubeconfig, context)
        credentials.impersonation = impersonation or credentials.impersonation
        async with cls.using(credentials) as client:
            yield client

    @classmethod
    @asynccontextmanager
    async def using(cls, credentials: Credentials) -> AsyncIterator[KubeClient]:
        """A client with credentials that are at hand."""
        http = httpcore.AsyncConnectionPool(
            ssl_context=credentials.tls() if credentials.server.startswith("https") else None,
            max_connections=None,
            max_keepalive_connections=8,
            keepalive_expiry=IDLE_S,
            network_backend=Backend(),
            socket_options=KEEP_ALIVE,
            proxy=_through(credentials.proxy),
        )
        failure: Exception | None = None
        async with http:
            async with trio.open_nursery() as nursery:
                try:
                    yield cls(credentials, http, nursery)
                except Exception as error:  # noqa: BLE001 - raised again below
                    # The nursery (watches live in it) would wrap the caller's error in a group.
                    failure = error
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure

    @property
    def server(self) -> str:
        """The server's URL."""
        return self._credentials.server

    @property
    def namespace(self) -> str:
        """The default namespace of the context, or the pod's own."""
        return self._credentials.namespace

    def start_soon(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a task that ends with this client, such as a watch."""
        self._nursery.start_soon(task, *args)

    async def get(self, res: Resource, name: str, namespace: str | None = None) -> KubeObject:
        """One object."""
        return await self.request("GET", self.served(res).path(namespace, name))

    async def list(
        self,
        res: Resource,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Objects:
        """All objects of a kind, of one namespace or of all."""
        params = {"labelSelector": label_selector, "fieldSelector": field_selector}
        items, _ = await self.list_at(res, namespace, params)
        return items

    async def list_at(
        self, res: Resource, namespace: str | None, params: Mapping[str, str]
    ) -> tuple[Objects, str]:
        """All objects and the resourceVersion to watch from."""
        absent: NotFound | None = None
        for one in (res, *(res._replace(version=version) for version in res.older)):
            try:
                found = await self._pages(one, namespace, params)
            except NotFound as error:
                absent = absent or error
                continue
            if res.older:
                self._served[res] = one
            return found
        assert absent is not None
        raise absent

    def served(self, res: Resource) -> Resource:
        """In the version of which the server had a list."""
        return self._served.get(res, res)

    async def _pages(
        self, res: Resource, namespace: str | None, params: Mapping[str, str]
    ) -> tuple[Objects, str]:
        selectors = {key: value for key, value in params.items() if value}
        query: dict[str, str] = {"limit": str(PAGE_SIZE)}
        items: Objects = []
        while True:
            try:
                answer = await self._send("GET", res.path(namespace), params={**selectors, **query})
            except Gone:
                if "limit" not in query:
                    raise
                # The list changed too much between two pages: take it in one piece.
                items, query = [], {}
                continue
            page = msgspec.json.decode(answer, type=Listing)
            for item in page.items or ():
                # Items of a list leave out what the list itself says.
                item.setdefault("apiVersion", res.api_version)
                item.setdefault("kind", res.kind)
                items.append(trim(item))
            token = page.metadata.get("continue")
            if not token:
                return items, str(page.metadata.get("resourceVersion", ""))
            query["continue"] = token

    async def create(self, res: Resource, obj: KubeObject, subresource: str = "") -> KubeObject:
        """Create an object, or call a subresource of it (``token``)."""
        metadata = obj.get("metadata", {})
        name = metadata["name"] if subresource else ""
        res = self.served(res)
        path = res.path(metadata.get("namespace"), name, subresource)
        return await self.request("POST", path, {**_typed(res), **obj})

    async def replace(self, res: Resource, obj: KubeObject, subresource: str = "") -> KubeObject:
        """Replace an object; with its resourceVersion, only if nobody changed it since."""
        metadata = obj["metadata"]
        res = self.served(res)
        path = res.path(metadata.get("namespace"), metadata["name"], subresource)
        return await self.request("PUT", path, {**_typed(res), **obj})

    async def patch(
        self, res: Resource, name: str, body: Any, **options: Unpack[PatchOptions]
    ) -> KubeObject:
        """Change parts of an object; kind ``apply`` also creates it."""
        res, kind = self.served(res), options.get("kind", "merge")
        if kind == "apply":
            body = {**_typed(res), **body}
        params = {}
        if options.get("field_manager") or kind == "apply":
            params["fieldManager"] = options.get("field_manager") or USER_AGENT
        if options.get("force"):
            params["force"] = "true"
        if options.get("dry_run"):
            params["dryRun"] = "All"
        path = res.path(options.get("namespace"), name, options.get("subresource", ""))
        answer = await self._send(
            "PATCH", path, body, params=params, content_type=PATCH_TYPES[kind]
        )
        return _object(answer)

    async def delete(self, res: Resource, name: str, namespace: str | None = None) -> KubeObject:
        """Delete an object; dependents follow in the background."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        return await self.request("DELETE", self.served(res).path(namespace, name), body)

    async def request(self, method: str, path: str, body: Any = None) -> KubeObject:
        """Any other call that takes and gives JSON."""
        return _object(await self._send(method, path, body))

    async def get_with_headers(self, path: str) -> tuple[KubeObject, Mapping[str, str]]:
        """An answer with its headers, such as the server's clock."""
        body, headers = await self._answer("GET", path)
        return _object(body), headers

    async def _send(self, method: str, path: str, body: Any = None, **options: Any) -> bytes:
        return (await self._answer(method, path, body, **options))[0]

    async def _answer(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> tuple[bytes, dict[str, str]]:
        headers = [*await self.headers(), ("Accept-Encoding", "gzip")]
        content = b""
        if body is not None:
            content = msgspec.json.encode(body)
            headers += [("Content-Type", content_type), ("Content-Length", str(len(content)))]
        try:
            answer = await self._http.request(
                method,
                self._url(path, params or {}),
                headers=headers,
                content=_Body(content) if body is not None else None,
                extensions=self._extensions(ANSWER_S),
            )
            told = {name.decode().lower(): value.decode() for name, value in answer.headers}
            zipped = told.get("content-encoding") == "gzip"
            received = gzip.decompress(answer.content) if zipped else answer.content
        except (*HTTP_ERRORS, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise self.unreachable(error) from error
        if answer.status >= 400:
            raise error_from(answer.status, received, f"{method} {path}")
        return received, told

    def stream(
        self,
        path: str,
        params: Mapping[str, str],
        headers: Headers,
        *,
        quiet_s: float | None = None,
    ) -> AbstractAsyncContextManager[httpcore.Response]:
        """A GET whose answer is read as it comes, for watches, logs and connections into pods."""
        url, how = self._url(path, params), self._extensions(quiet_s or self.watch_quiet_s)
        return self._http.stream("GET", url, headers=headers, extensions=how)

    def _url(self, path: str, params: Mapping[str, str]) -> str:
        query = f"?{urlencode(params, quote_via=quote)}" if params else ""
        return f"{self.server}{path}{query}"

    def _extensions(self, quiet_s: float) -> dict[str, Any]:
        times = {"connect": CONNECT_S, "read": quiet_s, "write": ANSWER_S}
        name = self._credentials.server_name
        return {"timeout": times, **({"sni_hostname": name} if name else {})}

    async def headers(self) -> Headers:
        """Who we are. The token is read again from its source now and then."""
        if trio.current_time() >= self._header_until:
            self._header = await trio.to_thread.run_sync(self._credentials.authorization)
            self._header_until = trio.current_time() + TOKEN_CHECK_S
        own = [("Authorization", self._header)] if self._header else []
        return [("User-Agent", USER_AGENT), *own, *self._credentials.impersonation]

    def unreachable(self, error: Exception) -> UnavailableError:
        """The same error for every way in which a connection can fail."""
        origin = self._credentials.origin
        if (untrusted := _untrusted(error)) is not None:
            return UnavailableError(
                f"the certificate of the API server {self.server} is not trusted: {untrusted}",
                hint=f"are its address and certificate-authority right in {origin}?",
            )
        return UnavailableError(
            f"the API server {self.server} does not answer: {str(error) or type(error).__name__}",
            hint=f"is it running, and is its address right in {origin}?",
        )


def _untrusted(error: BaseException | None) -> str | None:
    """Why a certificate was refused; None for every other failure."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


def _through(proxy: Proxy | None) -> httpcore.Proxy | None:
    if proxy is None:
        return None
    tls = ssl.create_default_context() if proxy.scheme == "https" else None
    return httpcore.Proxy(proxy.url, auth=proxy.user, ssl_context=tls)


class _Body:
    """A request's body in one piece.

    The library's own is an async generator, which is left to the garbage collector, with a warning,
    when a call is cancelled while it is being sent.
    """

    def __init__(self, data: bytes) -> None:
        self._pieces = iter([data] if data else [])

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def _typed(res: Resource) -> KubeObject:
    return {"apiVersion": res.api_version, "kind": res.kind}


def _object(answer: bytes) -> KubeObject:
    try:
        return msgspec.json.decode(answer, type=dict[str, Any]) if answer else {}
    except msgspec.MsgspecError as error:
        raise UnavailableError(
            f"the API server sent what is no JSON object: {error}",
            hint="does the server's address lead to something else?",
        ) from error
