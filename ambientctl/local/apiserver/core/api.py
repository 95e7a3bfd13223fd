"""Every request the server answers: the routes, sans-IO.

``Api.handle`` turns one request into a complete answer, a watch, a wish for a pod's log, or
questions to webhooks; the shell in ``io`` only moves bytes.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ambientctl.local.apiserver.core import discovery, openapi, pod_streams, subresources
from ambientctl.local.apiserver.core.access import Access
from ambientctl.local.apiserver.core.admitted_writes import Admission, AdmittedWrites, Write
from ambientctl.local.apiserver.core.builtin_types import conform_as
from ambientctl.local.apiserver.core.cluster import Call, Cluster
from ambientctl.local.apiserver.core.events import present
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.options import call_of, delete_options, page_of, patch_body
from ambientctl.local.apiserver.core.pod_streams import PodCommand, PodLog, PodPort
from ambientctl.local.apiserver.core.rbac import Authorizer
from ambientctl.local.apiserver.core.requests import (
    Request,
    Response,
    Target,
    accepts,
    json_response,
    list_object,
    parse_target,
    read_body,
)
from ambientctl.local.apiserver.core.reviews import Reviewer
from ambientctl.local.apiserver.core.selectors import parse_fields, parse_labels, predicate
from ambientctl.local.apiserver.core.status import (
    ApiError,
    Object,
    bad_request,
    method_not_allowed,
    path_not_found,
)
from ambientctl.local.apiserver.core.table import partial_metadata, table
from ambientctl.local.apiserver.core.tokens import TokenAuthority, User
from ambientctl.local.apiserver.core.watch import TIMEOUT_S, Dress, Watch, WatchOptions
from ambientctl.local.apiserver.core.webhooks import Outcome

_PUBLIC: Final = frozenset({"/healthz", "/livez", "/readyz", "/version"})
"""What an anonymous caller may ask."""


Answer = Response | Watch | PodLog | PodPort | PodCommand | Admission


class Api:
    """The whole API over one cluster."""

    def __init__(
        self,
        cluster: Cluster,
        authority: TokenAuthority,
        admin_token: str,
        now: Callable[[], datetime.datetime],
    ) -> None:
        self.cluster = cluster
        self.authority = authority
        self._now = now
        authorizer = Authorizer(cluster.store)
        self._access = Access(authority, authorizer, admin_token, now)
        self._reviewer = Reviewer(authority, authorizer)
        self._writes = AdmittedWrites(cluster, self._access, cluster.new_uid)

    def handle(self, request: Request) -> Answer:
        """Answer one request; a refusal is an answer too."""
        return self._guarded(request, lambda: self._answer_to(request))

    def _guarded(self, request: Request, answer: Callable[[], Answer]) -> Answer:
        """Refusals become answers, also those that come after webhooks have been asked."""
        try:
            found = answer()
        except ApiError as error:
            return json_response(error.code, error.body(), tuple(request.warnings))
        if isinstance(found, Admission):
            resume = found.resume

            def go_on(outcomes: Sequence[Outcome]) -> Response | Admission:
                later = self._guarded(request, lambda: resume(outcomes))
                assert isinstance(later, Response | Admission)
                return later

            return Admission(found.calls, go_on)
        return found

    def _answer_to(self, request: Request) -> Answer:
        if request.path.rstrip("/") in _PUBLIC:
            return self._plain(request)
        user = self._access.user_of(request)
        if _is_plain(request.path):
            self._access.require_path(user, request)
            return self._plain(request)
        return self._resource(request, user)

    # paths that are no resources

    def _plain(self, request: Request) -> Response:
        """Health, version, discovery, OpenAPI and keys."""
        if request.method not in {"GET", "HEAD"}:
            raise method_not_allowed(request.method)
        catalogue = self.cluster.catalogue
        parts = request.path.strip("/").split("/")
        match parts:
            case ["healthz" | "livez" | "readyz"]:
                return Response(200, b"ok", "text/plain; charset=utf-8")
            case ["version"]:
                return json_response(200, discovery.VERSION)
            case ["openapi", *rest]:
                return self._openapi(request, rest)
            case ["openid", "v1", "jwks"]:
                return json_response(200, self.authority.jwks())
            case ["api" | "apis"]:
                return self._groups(request, core=parts == ["api"])
            case ["api", version]:
                return json_response(200, discovery.resource_list(catalogue, "", version))
            case ["apis", group]:
                return json_response(200, discovery.group(catalogue, group))
            case ["apis", group, version]:
                return json_response(200, discovery.resource_list(catalogue, group, version))
            case [""]:
                return json_response(200, {"paths": ["/api", "/apis", "/healthz", "/version"]})
            case _:
                raise path_not_found()

    def _openapi(self, request: Request, parts: list[str]) -> Response:
        """Version 2 as JSON or protobuf, version 3 by group version."""
        catalogue = self.cluster.catalogue
        match parts:
            case ["v2"] if "protobuf" in request.headers.get("accept", ""):
                return Response(200, openapi.v2_protobuf(catalogue), openapi.V2_PROTOBUF)
            case ["v2"]:
                return json_response(200, openapi.v2(catalogue))
            case ["v3"]:
                return json_response(200, openapi.v3_index(catalogue))
            case ["v3", "api", version]:
                return json_response(200, openapi.v3(catalogue, "", version))
            case ["v3", "apis", group, version]:
                return json_response(200, openapi.v3(catalogue, group, version))
            case _:
                raise path_not_found()

    def _groups(self, request: Request, *, core: bool) -> Response:
        """Discovery in the old form, or aggregated for clients that ask for it."""
        catalogue = self.cluster.catalogue
        if accepts(request, "APIGroupDiscoveryList", "apidiscovery.k8s.io"):
            version = "v2" if "v=v2;" in request.headers["accept"] else "v2beta1"
            obj = discovery.aggregated(catalogue, version, core=core)
            media_type = discovery.AGGREGATED.format(version=version)
            return Response(200, msgspec.json.encode(obj), media_type)
        return json_response(
            200, discovery.api_versions() if core else discovery.group_list(catalogue)
        )

    # resources

    def _resource(self, request: Request, user: User) -> Answer:
        """Find the kind behind a path, then the verb."""
        target = parse_target(request.path)
        kind = self.cluster.catalogue.find(target.group, target.version, target.plural)
        if kind is None or (target.namespace and not kind.namespaced):
            raise path_not_found()
        self._access.require(user, request, target, exists=self._exists(kind, target))
        if kind.verbs == ("create",):
            return self._review(request, kind, user)
        if target.subresource:
            if target.subresource not in kind.subresources:
                raise path_not_found()
            if target.subresource not in {"status", "finalize"}:
                return self._special(request, kind, target)
        if kind.namespaced and target.name and not target.namespace:
            raise path_not_found()
        if target.name:
            return self._one(request, kind, target, user)
        return self._many(request, kind, target, user)

    def _exists(self, kind: Kind, target: Target) -> bool:
        namespace = target.namespace if kind.namespaced else ""
        return self.cluster.store.get(kind.key, namespace, target.name) is not None

    def _review(self, request: Request, kind: Kind, user: User) -> Response:
        """Kinds that are questions are never stored."""
        if request.method != "POST":
            raise method_not_allowed(request.method)
        body = read_body(request)
        now_s = int(self._now().timestamp())
        return json_response(201, self._reviewer.review(kind, body, user, now_s))

    def _many(self, request: Request, kind: Kind, target: Target, user: User) -> Answer:
        """The verbs of a collection."""
        match request.method:
            case "GET" | "HEAD":
                return (
                    self._watch(request, kind, target)
                    if request.flag("watch")
                    else self._list(request, kind, target)
                )
            case "POST":
                if kind.namespaced and not target.namespace:
                    raise method_not_allowed("POST")
                body = read_body(request)
                if body is None:
                    raise bad_request("the request needs a body: the object to create")

                def create(call: Call) -> Object:
                    return self.cluster.create(kind, target.namespace, body, call)

                def shown(obj: Object) -> Response:
                    return self._answer(request, kind, obj, 201)

                return self._writes.run(Write(kind, target, user, call_of(request), create, shown))
            case "DELETE":
                return self._delete_many(request, kind, target)
            case _:
                raise method_not_allowed(request.method)

    def _one(self, request: Request, kind: Kind, target: Target, user: User) -> Answer:
        """The verbs of one object, and of its status."""
        namespace, name, subresource = target.namespace, target.name, target.subresource
        match request.method:
            case "GET" | "HEAD" if request.flag("watch"):
                return self._watch(request, kind, target)
            case "GET" | "HEAD":
                obj = self.cluster.get(kind, namespace, name)
                return self._answer(request, kind, obj, 200)
            case "PUT":
                sent = read_body(request)

                def perform(call: Call) -> Object:
                    return self.cluster.update(kind, namespace, name, sent, call, subresource)

            case "PATCH":
                body, place, media_type = (
                    patch_body(request),
                    (namespace, name),
                    request.media_type,
                )

                def perform(call: Call) -> Object:
                    patch = self.cluster.patch
                    return patch(kind, place, media_type, body, call, subresource)[0]

            case "DELETE" if not subresource:
                return self._delete_one(request, kind, target, user)
            case _:
                raise method_not_allowed(request.method)
        status = 200 if self._exists(kind, target) else 201

        def shown(obj: Object) -> Response:
            return self._answer(request, kind, obj, status)

        return self._writes.run(Write(kind, target, user, call_of(request), perform, shown))

    def _special(self, request: Request, kind: Kind, target: Target) -> Answer:
        """The subresources with rules of their own."""
        cluster, address = self.cluster, (target.namespace, target.name)
        call = call_of(request)
        match request.method, target.subresource:
            case "GET", "log":
                return pod_streams.log_wish(cluster.get(kind, *address), request)
            case "GET" | "POST", "portforward":
                return pod_streams.port_wish(cluster.get(kind, *address), request)
            case "GET" | "POST", "exec" | "attach":
                pod = cluster.get(kind, *address)
                return pod_streams.command_wish(pod, request, target.subresource)
            case "GET", "scale":
                return json_response(200, subresources.scale_of(cluster.get(kind, *address)))
            case "PUT", "scale":
                body = read_body(request)
                return json_response(
                    200, subresources.set_scale(cluster, kind, address, body, call)
                )
            case "PATCH", "scale":
                body = patch_body(request)
                found = subresources.patch_scale(
                    cluster, kind, address, request.media_type, body, call
                )
                return json_response(200, found)
            case "POST", "binding":
                body = conform_as("", "Binding", read_body(request))
                node = (body.get("target") or {}).get("name", "")
                subresources.bind(cluster, *address, node)
                return json_response(201, _success())
            case "POST", "eviction":
                subresources.evict(cluster, kind, address, read_body(request), call)
                return json_response(201, _success())
            case "POST", "token":
                account = cluster.get(kind, *address)
                body = read_body(request)
                found = subresources.request_token(
                    cluster, self.authority, account, body, self._now()
                )
                return json_response(201, found)
            case _:
                raise method_not_allowed(request.method)

    # answers

    def _answer(self, request: Request, kind: Kind, obj: Object, status: int) -> Response:
        """The object in the dress that the client asked for."""
        shown = present(kind, obj)
        if accepts(request, "Table"):
            include = request.query.get("includeObject", "")
            shown = table(kind, [shown], self._now(), include)
        elif accepts(request, "PartialObjectMetadata"):
            shown = partial_metadata(shown)
        return json_response(status, shown, tuple(request.warnings))

    def _selected(self, request: Request, kind: Kind, target: Target) -> WatchOptions:
        """The selectors and watch parameters of a query."""
        labels = parse_labels(request.query.get("labelSelector", ""))
        fields = request.query.get("fieldSelector", "")
        if target.name:
            fields = ",".join(filter(None, (fields, f"metadata.name={target.name}")))
        timeout_s = request.number("timeoutSeconds")
        return WatchOptions(
            target.namespace,
            predicate(labels, parse_fields(fields, kind.key)),
            request.query.get("resourceVersion", ""),
            request.flag("allowWatchBookmarks"),
            request.flag("sendInitialEvents"),
            TIMEOUT_S if timeout_s is None else float(timeout_s),
        )

    def _dress(self, request: Request, kind: Kind) -> Dress | None:
        """How a watch's objects are dressed, None for as they are."""
        if accepts(request, "Table"):
            include = request.query.get("includeObject", "")
            return lambda obj, first: table(kind, [obj], self._now(), include, header=first)
        if accepts(request, "PartialObjectMetadata"):
            return lambda obj, _: partial_metadata(obj)
        return None

    def _watch(self, request: Request, kind: Kind, target: Target) -> Watch:
        options = self._selected(request, kind, target)
        return Watch(kind, self.cluster.store, options, self._dress(request, kind))

    def _list(self, request: Request, kind: Kind, target: Target) -> Response:
        """A page of a collection."""
        wanted = self._selected(request, kind, target).wanted
        objects = self.cluster.select(kind, target.namespace, wanted)
        objects, token, left = page_of(request, objects)
        shown = [present(kind, obj) for obj in objects]
        revision = self.cluster.store.revision
        if accepts(request, "Table"):
            found = table(kind, shown, self._now(), request.query.get("includeObject", ""))
            found["metadata"]["resourceVersion"] = str(revision)
        elif accepts(request, "PartialObjectMetadataList"):
            items = [partial_metadata(obj) for obj in shown]
            found = list_object("meta.k8s.io/v1", "PartialObjectMetadataList", items, revision)
        else:
            found = list_object(kind.api_version, kind.list_name, shown, revision)
        if token:
            found["metadata"] |= {"continue": token, "remainingItemCount": left}
        return json_response(200, found)

    def _delete_one(self, request: Request, kind: Kind, target: Target, user: User) -> Answer:
        """Delete; the answer is the object while it lasts, else a Status with its uid."""
        options, namespace, name = delete_options(request), target.namespace, target.name

        def delete(call: Call) -> Object:
            return self.cluster.delete(kind, namespace, name, options, call)

        def shown(obj: Object) -> Response:
            if obj["metadata"].get("deletionTimestamp") or kind.kind == "Pod":
                return json_response(200, present(kind, obj), tuple(request.warnings))
            metadata = obj["metadata"]
            details = {"name": metadata["name"], "kind": kind.plural, "uid": metadata["uid"]}
            status = _success({**details, "group": kind.group})
            return json_response(200, status, tuple(request.warnings))

        write = Write(kind, target, user, call_of(request), delete, shown, is_deletion=True)
        return self._writes.run(write)

    def _delete_many(self, request: Request, kind: Kind, target: Target) -> Response:
        """Delete what the selectors take; the answer lists what was there."""
        options, call = delete_options(request), call_of(request)
        wanted = self._selected(request, kind, target).wanted
        objects = self.cluster.select(kind, target.namespace, wanted)
        for obj in objects:
            metadata = obj["metadata"]
            self.cluster.delete(
                kind, metadata.get("namespace", ""), metadata["name"], options, call
            )
        shown = [present(kind, obj) for obj in objects]
        revision = self.cluster.store.revision
        return json_response(200, list_object(kind.api_version, kind.list_name, shown, revision))


def _is_plain(path: str) -> bool:
    """Is this a path of discovery and the like, not of a resource?"""
    parts = path.strip("/").split("/")
    return parts[0] not in {"api", "apis"} or len(parts) < (3 if parts[0] == "api" else 4)


def _success(details: Object | None = None) -> Object:
    """A Status for requests that have no object to return."""
    status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return {**status, "details": details} if details else status
