"""Validating webhooks: who is asked about a write, what is asked, what the answers mean."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from ambientctl.local.apiserver.core.kinds import (
    ENDPOINT_SLICES,
    NAMESPACES,
    SERVICES,
    VALIDATING_WEBHOOKS,
    Catalogue,
    Kind,
)
from ambientctl.local.apiserver.core.selectors import from_object, matches_labels
from ambientctl.local.apiserver.core.status import ApiError, Object, bad_request
from ambientctl.local.apiserver.core.store import Store
from ambientctl.local.apiserver.core.tokens import User

REVIEW_KIND: Final = "AdmissionReview"
REVIEW_VERSION: Final = "admission.k8s.io/v1"


class Proposal(NamedTuple):
    """A write before it is stored. ``old`` and ``new`` are None on CREATE and on DELETE."""

    kind: Kind
    subresource: str
    operation: str
    user: User
    old: Object | None
    new: Object | None
    dry_run: bool

    @property
    def object(self) -> Object:
        """The object, whichever there is."""
        found = self.new or self.old
        assert found is not None
        return found

    @property
    def resource(self) -> str:
        """As rules spell it: ``pods``, ``pods/status``."""
        return "/".join(filter(None, (self.kind.plural, self.subresource)))


class Destination(NamedTuple):
    """Where a webhook is reached, and under which name its certificate is checked."""

    url: str
    server_name: str
    ca_pem: str


class WebhookCall(NamedTuple):
    """One question. Without a ``destination`` there is nobody to ask, and ``reason`` says why."""

    webhook: str
    destination: Destination | None
    reason: str
    body: bytes
    timeout_s: float
    is_fatal: bool
    """A webhook that does not answer refuses."""


class Outcome(NamedTuple):
    """What came of a call: the body of the answer, or why there is none."""

    body: bytes = b""
    failure: str = ""


def interested(store: Store, kind: Kind) -> list[Object]:
    """Webhooks that may have a say about a resource; configurations of webhooks are never asked
    about, or a broken one could not be mended.
    """
    if kind.key == VALIDATING_WEBHOOKS:
        return []
    return [
        webhook
        for configuration in store.objects(VALIDATING_WEBHOOKS)
        for webhook in configuration.get("webhooks") or ()
    ]


def calls(
    store: Store, catalogue: Catalogue, webhooks: Sequence[Object], asked: Proposal, uid: str
) -> list[WebhookCall]:
    """Which of the webhooks have to be asked, in their order. Raises a 400 for a dry run where one
    of them has side effects.
    """
    made = []
    for webhook in webhooks:
        kind = _matching_version(catalogue, webhook, asked)
        if kind is None or not _selected(store, webhook, asked):
            continue
        if asked.dry_run and webhook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise bad_request(f"admission webhook {webhook['name']!r} does not support dry run")
        destination, reason = _destination(store, webhook["clientConfig"])
        body = msgspec.json.encode(_review(asked, kind, uid))
        made.append(
            WebhookCall(
                webhook["name"],
                destination,
                reason,
                body,
                float(webhook["timeoutSeconds"]),
                webhook["failurePolicy"] == "Fail",
            )
        )
    return made


def judge(call: WebhookCall, outcome: Outcome, uid: str, warnings: list[str]) -> None:
    """Raises the refusal that an answer is, or that the want of one is; notes its warnings."""
    try:
        response = _response(outcome, uid)
    except ValueError as error:
        if not call.is_fatal:
            return
        message = f'Internal error occurred: failed calling webhook "{call.webhook}": {error}'
        raise ApiError(500, "InternalError", message) from None
    warnings.extend(str(one) for one in response.get("warnings") or ())
    if response.get("allowed") is True:
        return
    status = response.get("status") or {}
    said = status.get("message") or status.get("reason") or ""
    text = f'admission webhook "{call.webhook}" denied the request'
    code = status.get("code")
    raise ApiError(
        code if isinstance(code, int) and 400 <= code < 600 else 403,
        str(status.get("reason") or "Forbidden"),
        f"{text}: {said}" if said else f"{text} without explanation",
        status.get("details"),
    )


def same_intent(one: Object | None, other: Object | None) -> bool:
    """Whether two tries at the same write mean the same, though names and times differ."""
    return _lasting(one) == _lasting(other)


def _lasting(obj: Object | None) -> Object | None:
    if obj is None:
        return None
    metadata = dict(obj["metadata"])
    for field in ("uid", "creationTimestamp", "resourceVersion", "managedFields"):
        metadata.pop(field, None)
    if metadata.get("generateName"):
        metadata.pop("name", None)
    return {**obj, "metadata": metadata}


def _matching_version(catalogue: Catalogue, webhook: Object, asked: Proposal) -> Kind | None:
    """The version in which the webhook wants to see the object; None if it does not."""
    exact = webhook["matchPolicy"] == "Exact"
    versions = [asked.kind]
    if not exact:
        versions += [k for k in catalogue.all() if k.key == asked.kind.key and k != asked.kind]
    for kind in versions:
        if any(_rule_matches(rule, kind, asked) for rule in webhook.get("rules") or ()):
            return kind
    return None


def _rule_matches(rule: Object, kind: Kind, asked: Proposal) -> bool:
    _, _, subresource = asked.resource.partition("/")
    accepted = {"*/*", asked.resource}
    accepted |= (
        {f"*/{subresource}", f"{kind.plural}/*"} if subresource else {"*", f"{kind.plural}/*"}
    )
    scope = {"Namespaced": True, "Cluster": False}.get(rule["scope"], kind.namespaced)
    return (
        scope == kind.namespaced
        and _has(rule.get("operations"), asked.operation)
        and _has(rule.get("apiGroups"), kind.group)
        and _has(rule.get("apiVersions"), kind.version)
        and not accepted.isdisjoint(rule.get("resources") or ())
    )


def _has(values: Sequence[str] | None, wanted: str) -> bool:
    return any(one in ("*", wanted) for one in values or ())


def _selected(store: Store, webhook: Object, asked: Proposal) -> bool:
    """Namespace and object selector; an object matches in its old form, too."""
    wanted = from_object(webhook["objectSelector"]) or ()
    if not any(matches_labels(wanted, one) for one in (asked.new, asked.old) if one is not None):
        return False
    if asked.kind.key == NAMESPACES:
        home: Object | None = asked.object
    elif asked.kind.namespaced:
        home = store.get(NAMESPACES, "", asked.object["metadata"]["namespace"])
    else:
        return True
    selector = from_object(webhook["namespaceSelector"]) or ()
    return home is not None and matches_labels(selector, home)


def _review(asked: Proposal, kind: Kind, uid: str) -> Object:
    metadata = asked.object["metadata"]
    request: Object = {
        "uid": uid,
        "kind": _kind_name(kind),
        "resource": _resource_name(kind),
        "subResource": asked.subresource,
        "requestKind": _kind_name(asked.kind),
        "requestResource": _resource_name(asked.kind),
        "requestSubResource": asked.subresource,
        "name": metadata["name"],
        "namespace": metadata.get("namespace", ""),
        "operation": asked.operation,
        "userInfo": asked.user.info(),
        "object": _as_version(asked.new, kind),
        "oldObject": _as_version(asked.old, kind),
        "dryRun": asked.dry_run,
        "options": None,
    }
    return {"apiVersion": REVIEW_VERSION, "kind": REVIEW_KIND, "request": request}


def _kind_name(kind: Kind) -> Object:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _resource_name(kind: Kind) -> Object:
    return {"group": kind.group, "version": kind.version, "resource": kind.plural}


def _as_version(obj: Object | None, kind: Kind) -> Object | None:
    """All versions of a resource share one form here."""
    return obj and {**obj, "apiVersion": kind.api_version, "kind": kind.kind}


def _destination(store: Store, config: Object) -> tuple[Destination | None, str]:
    """Where to call, or why nobody is there."""
    try:
        ca_pem = base64.b64decode(config.get("caBundle") or "", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None, "caBundle holds no certificate"
    if url := config.get("url"):
        return Destination(url, urlsplit(url).hostname or "", ca_pem), ""
    service = config["service"]
    namespace, name = service["namespace"], service["name"]
    found = store.get(SERVICES, namespace, name)
    if found is None:
        return None, f'service "{name}" not found'
    ports = [one for one in found["spec"].get("ports") or () if one["port"] == service["port"]]
    if not ports:
        return None, f'no service port {service["port"]} found for service "{name}"'
    place = next(_endpoints(store, namespace, name, ports[0].get("name", "")), None)
    if place is None:
        return None, f'no endpoints available for service "{name}"'
    host, port = place
    path = (service.get("path") or "/").removeprefix("/")
    server_name = f"{name}.{namespace}.svc"
    return Destination(f"https://{host}:{port}/{path}?timeout=10s", server_name, ca_pem), ""


def _endpoints(
    store: Store, namespace: str, service: str, port_name: str
) -> Iterator[tuple[str, int]]:
    """Ready addresses behind a service: the server is no pod, so it takes none of the detours."""
    for slice_ in store.objects(ENDPOINT_SLICES, namespace):
        labels = slice_["metadata"].get("labels") or {}
        if labels.get("kubernetes.io/service-name") != service:
            continue
        for port in slice_.get("ports") or ():
            if (port.get("name") or "") != port_name or not port.get("port"):
                continue
            for endpoint in slice_.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is not False:
                    for address in endpoint.get("addresses") or ():
                        host = f"[{address}]" if ":" in address else address
                        yield host, port["port"]


def _response(outcome: Outcome, uid: str) -> Object:
    """The ``response`` of the answer. Raises ValueError with what is wrong with it."""
    if outcome.failure:
        raise ValueError(f"failed to call webhook: {outcome.failure}")
    try:
        review = msgspec.json.decode(outcome.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("could not get a JSON answer") from None
    response = review.get("response") if isinstance(review, dict) else None
    if not isinstance(response, dict):
        raise ValueError("the answer holds no response")
    if response.get("uid") != uid:
        raise ValueError(f"expected response.uid={uid!r}, got {response.get('uid')!r}")
    if not isinstance(response.get("status") or {}, dict):
        raise ValueError("response.status is no object")
    return response
