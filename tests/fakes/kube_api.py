"""An API server at the protocol edge: plain HTTP, one store, and watches that a test can break.

Not Kubernetes: no validation, no defaults, no access control. A test may hold back bytes, cut
connections, forget history (410) or be away for a while.
"""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h11
import trio

Object = dict[str, Any]


class FakeKubeApi:
    """The store and its HTTP face; ``tokens`` maps a bearer token to a TokenReview status."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[tuple[str, str], Object]] = {}
        self.tokens: dict[str, Object] = {}
        self.version = 100
        self.history: list[tuple[int, str, str, Object]] = []  # version, collection, type, object
        self.compacted = 0
        self.managed: dict[tuple[str, ...], set[str]] = {}
        """Types of the conditions that somebody applied, by object and field manager."""
        self.requests: list[str] = []
        self.away = False
        self.faults: list[int] = []
        """Statuses that the next requests are answered with, such as 429 or 500."""
        self.invalid: Callable[[Object], bool] = lambda _: False
        """Which objects are refused as invalid (422) when somebody applies them."""
        self.silent = False
        """Watches get no byte any more, and their connections stay open."""
        self.watch_chunks: Callable[[bytes], list[bytes]] = lambda line: [line]
        self.port = 0
        self._changed = trio.Event()
        self._scopes: set[trio.CancelScope] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeKubeApi]:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._connection, self.port)
            self.port = listeners[0].socket.getsockname()[1]
            yield self
            nursery.cancel_scope.cancel()

    def kubeconfig(self, directory: Path, token: str = "t") -> str:
        path = directory / "kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "clusters": [
                        {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
                    ],
                    "users": [{"name": "u", "user": {"token": token}}],
                    "contexts": [
                        {
                            "name": "fake",
                            "context": {"cluster": "c", "user": "u", "namespace": "shop"},
                        }
                    ],
                }
            )
        )
        return str(path)

    # What a test does to the cluster.

    def put(self, collection: str, obj: Object) -> Object:
        """Create or replace; ``collection`` is a path such as ``/api/v1/pods``."""
        self.version += 1
        obj = copy.deepcopy(obj)
        metadata = obj.setdefault("metadata", {})
        metadata["resourceVersion"] = str(self.version)
        metadata.setdefault("uid", f"uid-{self.version}")
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        key = (metadata.get("namespace", ""), metadata["name"])
        store = self.objects.setdefault(collection, {})
        kind = "MODIFIED" if key in store else "ADDED"
        store[key] = obj
        self._record(collection, kind, obj)
        return obj

    def remove(self, collection: str, namespace: str, name: str) -> None:
        self.version += 1
        obj = self.objects[collection].pop((namespace, name))
        self._record(collection, "DELETED", obj)

    def forget_history(self) -> None:
        """Older resourceVersions answer 410 from now on, running watches end."""
        self.compacted = self.version
        self.cut()

    def cut(self) -> None:
        """Break all open connections."""
        for scope in list(self._scopes):
            scope.cancel()

    def get(self, collection: str, namespace: str, name: str) -> Object | None:
        return self.objects.get(collection, {}).get((namespace, name))

    async def changed(self) -> None:
        await self._changed.wait()

    def _record(self, collection: str, kind: str, obj: Object) -> None:
        self.history.append((self.version, collection, kind, copy.deepcopy(obj)))
        self._changed.set()
        self._changed = trio.Event()

    # HTTP.

    async def _connection(self, stream: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                await self._serve(stream)
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                pass
            finally:
                self._scopes.discard(scope)

    async def _serve(self, stream: trio.SocketStream) -> None:
        while True:
            conn = h11.Connection(h11.SERVER)
            request, body = None, b""
            while True:
                event = conn.next_event()
                if event is h11.NEED_DATA:
                    conn.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return
            assert request is not None
            url = urlsplit(request.target.decode())
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            method = request.method.decode()
            self.requests.append(f"{method} {url.path}")
            if self.away:
                return
            if self.faults:
                await self._refuse(stream, conn, self.faults.pop(0))
                continue
            if query.get("watch") == "true":
                await self._watch(stream, conn, url.path, query)
                return
            status, answer = self._answer(method, url.path, query, json.loads(body or b"null"))
            data = json.dumps(answer).encode()
            head = h11.Response(
                status_code=status,
                headers=[("content-type", "application/json"), ("content-length", str(len(data)))],
            )
            out = conn.send(head) + conn.send(h11.Data(data=data)) + conn.send(h11.EndOfMessage())
            await stream.send_all(out)

    async def _refuse(self, stream: trio.SocketStream, conn: h11.Connection, status: int) -> None:
        data = json.dumps({"kind": "Status", "code": status, "message": "not now"}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(data)))]
        head = conn.send(h11.Response(status_code=status, headers=headers))
        await stream.send_all(head + conn.send(h11.Data(data=data)) + conn.send(h11.EndOfMessage()))

    def _split(self, path: str) -> tuple[str, str, str, str]:
        """Collection path, namespace, name, subresource."""
        parts = path.strip("/").split("/")
        root = 2 if parts[0] == "api" else 3
        rest, namespace = parts[root:], ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        rest += ["", ""]
        return "/" + "/".join([*parts[:root], rest[0]]), namespace, rest[1], rest[2]

    def _answer(self, method: str, path: str, query: Object, body: Any) -> tuple[int, Object]:
        collection, namespace, name, sub = self._split(path)
        if collection.endswith("/tokenreviews"):
            status = self.tokens.get(body["spec"]["token"], {"authenticated": False})
            return 201, {**body, "status": status}
        existing = self.get(collection, namespace, name)
        if method == "GET" and not name:
            return 200, self._list(collection, namespace, query)
        if method == "POST" and sub == "eviction" and existing:
            self.remove(collection, namespace, name)
            return 201, {"kind": "Status", "status": "Success"}
        if method == "POST":
            key = body["metadata"]["name"]
            if self.get(collection, namespace, key):
                return 409, {"message": f"{key} exists already", "reason": "AlreadyExists"}
            body["metadata"].setdefault("namespace", namespace)
            return 201, self.put(collection, body)
        if method == "PATCH" and (existing or query.get("fieldManager")):
            base = existing or {"metadata": {"name": name, "namespace": namespace}}
            return self._patch(collection, base, sub, query, body)
        if existing is None:
            return 404, {"message": f"{collection} {name} not found", "reason": "NotFound"}
        if method == "PUT":
            sent = body["metadata"].get("resourceVersion")
            if sent and sent != existing["metadata"]["resourceVersion"]:
                return 409, {"message": "the object has been modified", "reason": "Conflict"}
            return 200, self.put(collection, body)
        if method == "DELETE":
            self.remove(collection, namespace, name)
        return 200, existing

    def _patch(
        self, collection: str, base: Object, sub: str, query: Object, body: Any
    ) -> tuple[int, Object]:
        metadata = base["metadata"]
        if self.invalid(body):
            return 422, {"message": f"{metadata['name']} is invalid", "reason": "Invalid"}
        seen = (body.get("metadata") or {}).get("resourceVersion")
        if seen and seen != metadata.get("resourceVersion", seen):
            return 409, {"message": "the object has been modified", "reason": "Conflict"}
        allowed = ("status", "metadata") if collection == "/api/v1/pods" else ("status",)
        if sub == "status":  # of pods it also takes annotations, as Kubernetes does
            body = {key: body[key] for key in allowed if key in body}
        if sub == "status" and query.get("force"):
            where = (collection, metadata.get("namespace", ""), metadata["name"])
            body = self._applied(base, body, (*where, query["fieldManager"]))
        patched = _merge(base, body)
        changed = patched != base or "uid" not in metadata
        return 200, self.put(collection, patched) if changed else patched

    def _applied(self, base: Object, body: Object, manager: tuple[str, ...]) -> Object:
        """Conditions merge by type, and those that a manager does not apply any more go."""
        mine = {one["type"]: one for one in body["status"].get("conditions", ())}
        before = self.managed.get(manager, set())
        self.managed[manager] = set(mine)
        have = base.get("status", {}).get("conditions", ())
        others = [one for one in have if one["type"] not in before | set(mine)]
        return {"status": {**body["status"], "conditions": [*others, *mine.values()]}}

    def _list(self, collection: str, namespace: str, query: Object) -> Object:
        items = [
            obj
            for obj in self.objects.get(collection, {}).values()
            if _selected(obj, namespace, query)
        ]
        return {"kind": "List", "items": items, "metadata": {"resourceVersion": str(self.version)}}

    async def _watch(
        self, stream: trio.SocketStream, conn: h11.Connection, path: str, query: Object
    ) -> None:
        collection, namespace, _, _ = self._split(path)
        head = h11.Response(status_code=200, headers=[("transfer-encoding", "chunked")])
        await stream.send_all(conn.send(head))
        seen = int(query["resourceVersion"])
        if seen < self.compacted:
            gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
            line = json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
            await stream.send_all(conn.send(h11.Data(data=line)) + conn.send(h11.EndOfMessage()))
            return
        while True:
            changed, now = self._changed, self.version  # more may come while we send
            if self.silent:
                await changed.wait()
                continue
            for version, where, kind, obj in list(self.history):
                if version <= seen or where != collection or not _selected(obj, namespace, query):
                    continue
                line = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
                for chunk in self.watch_chunks(line):
                    await stream.send_all(conn.send(h11.Data(data=chunk)))
            seen = now
            mark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(seen)}}}
            await stream.send_all(conn.send(h11.Data(data=json.dumps(mark).encode() + b"\n")))
            await changed.wait()


def _selected(obj: Object, namespace: str, query: Object) -> bool:
    metadata = obj["metadata"]
    field = query.get("fieldSelector", "")
    fields = (
        "",
        f"metadata.name={metadata['name']}",
        f"spec.nodeName={obj.get('spec', {}).get('nodeName')}",
    )
    return (not namespace or metadata.get("namespace") == namespace) and field in fields


def _merge(base: Any, patch: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    merged = {**base, **{key: _merge(base.get(key), value) for key, value in patch.items()}}
    return {key: value for key, value in merged.items() if value is not None}
