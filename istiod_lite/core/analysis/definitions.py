"""CustomResourceDefinitions that the mesh needs, and webhooks that somebody has to answer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from cryptography import x509

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item
from istiod_lite.core.analysis.finding import Finding, Severity
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.validation.report import Field

GATEWAY_API: Final = (
    "gateways.gateway.networking.k8s.io",
    "gatewayclasses.gateway.networking.k8s.io",
    "httproutes.gateway.networking.k8s.io",
)
MESH: Final = (
    "authorizationpolicies.security.istio.io",
    "peerauthentications.security.istio.io",
    "serviceentries.networking.istio.io",
    "workloadentries.networking.istio.io",
)
GATEWAY_VERSION: Final = "v1"


def definitions(corpus: Corpus) -> Iterator[Finding]:
    """Only where a cluster was read: files need not carry definitions."""
    if "CustomResourceDefinition" not in corpus.listed:
        return
    for name in (*GATEWAY_API, *MESH):
        item = corpus.get("CustomResourceDefinition", "", name)
        if item is None:
            yield _missing(name)
            continue
        served = [
            one["name"].text()
            for one in item.spec["versions"].items()
            if one["served"].value is True
        ]
        if name in GATEWAY_API and GATEWAY_VERSION not in served:
            text = f"serves {', '.join(served)}, and the mesh reads {GATEWAY_VERSION}"
            remedy = "install Gateway API 1.0 or later"
            yield item.says(codes.OLD_GATEWAY_API, text, remedy, field="spec.versions")


def _missing(name: str) -> Finding:
    plural, _, group = name.partition(".")
    effect = "waypoints cannot be deployed" if name in GATEWAY_API else "the mesh cannot read them"
    remedy = "ambientctl install, or kubectl apply -f manifests/crds"
    return Finding(
        code=codes.NO_GATEWAY_API,
        severity=codes.NO_GATEWAY_API.severity,
        ref=ObjectRef("CustomResourceDefinition", ObjectKey("", name)),
        message=f"the cluster does not know {plural} of {group}: {effect}",
        remedy=remedy,
    )


WEBHOOKS: Final = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")


def webhooks(corpus: Corpus) -> Iterator[Finding]:
    """Webhooks of the mesh whose Service is not there, or whose certificate does not hold."""
    for kind in WEBHOOKS:
        for item in corpus.items(kind):
            for hook in item.root["webhooks"].items():
                if "istio" not in hook["name"].text():
                    continue
                yield from _service(corpus, item, hook)
                yield from _bundle(corpus, item, hook)


def _service(corpus: Corpus, item: Item, hook: Field) -> Iterator[Finding]:
    service = hook["clientConfig"]["service"]
    if not service.given or not corpus.knows("Service"):
        return
    namespace, name = service["namespace"].text(), service["name"].text()
    if corpus.get("Service", namespace, name) is None:
        policy = hook["failurePolicy"].text() or "Fail"
        effect = "every write is refused" if policy == "Fail" else "nothing is checked"
        text = f"{hook.path}: there is no Service {namespace}/{name}: {effect}"
        delete = f"kubectl delete {item.ref.kind.lower()} {item.ref.key.name}"
        remedy = f"install the control plane, or {delete}"
        yield item.says(codes.INVALID_WEBHOOK, text, remedy, field=service.path)


def _bundle(corpus: Corpus, item: Item, hook: Field) -> Iterator[Finding]:
    field = hook["clientConfig"]["caBundle"]
    if not field.given:
        if item.origin is not None:
            return  # a file leaves it out, since istiod-lite writes it
        text = f"{hook.path}: has no caBundle (yet), so that the API server trusts nobody"
        remedy = "is istiod-lite running? It writes the bundle"
        yield item.says(
            codes.INVALID_WEBHOOK, text, remedy, field=hook.path, severity=Severity.WARNING
        )
        return
    try:
        roots = x509.load_pem_x509_certificates(base64.b64decode(field.text(), validate=True))
    except (ValueError, binascii.Error):
        text = f"{field.path}: is no certificate"
        yield item.says(codes.INVALID_WEBHOOK, text, "let istiod-lite write it", field=field.path)
        return
    if all(root.not_valid_after_utc < corpus.now for root in roots):
        ended = max(root.not_valid_after_utc for root in roots)
        text = f"{field.path}: expired {_day(ended)}"
        yield item.says(codes.INVALID_WEBHOOK, text, "let istiod-lite write it", field=field.path)


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")
