"""The enrolment decision, one row per sentence of its precedence."""

from __future__ import annotations

import pytest

from ambient.kube.core.objects import Namespace, Pod, decode
from cni_plugin.core.enrol import (
    CaptureWishes,
    Exclusions,
    Reason,
    capture_wishes,
    decide,
    label_problem,
)

LABEL = "istio.io/dataplane-mode"
IN, OUT, ODD = {LABEL: "ambient"}, {LABEL: "none"}, {LABEL: "sidecar"}
EXCLUSIONS = Exclusions(frozenset({"kube-system"}), "istio-system")


def pod(
    labels: dict[str, str] | None = None,
    *,
    namespace: str = "shop",
    annotations: dict[str, str] | None = None,
    host: bool = False,
    phase: str = "Running",
) -> Pod:
    metadata = {
        "name": "web",
        "namespace": namespace,
        "labels": labels,
        "annotations": annotations,
    }
    status = {"phase": phase}
    return decode({"metadata": metadata, "spec": {"hostNetwork": host}, "status": status}, Pod)


def namespace(labels: dict[str, str] | None = None) -> Namespace:
    return decode({"metadata": {"name": "shop", "labels": labels}}, Namespace)


@pytest.mark.parametrize(
    ("namespace_labels", "pod_labels", "want"),
    [
        (None, None, Reason.NOT_LABELLED),
        (None, IN, Reason.POD_IN),
        (None, OUT, Reason.POD_OUT),
        (None, ODD, Reason.NOT_LABELLED),
        (ODD, None, Reason.NOT_LABELLED),
        (OUT, None, Reason.NOT_LABELLED),
        (OUT, IN, Reason.POD_IN),
        (IN, None, Reason.NAMESPACE_IN),
        (IN, IN, Reason.POD_IN),
        (IN, OUT, Reason.POD_OUT),
        (IN, ODD, Reason.NAMESPACE_IN),
    ],
)
def test_labels(
    namespace_labels: dict[str, str] | None, pod_labels: dict[str, str] | None, want: Reason
) -> None:
    assert decide(pod(pod_labels), namespace(namespace_labels), EXCLUSIONS) is want
    assert want.wanted == (want in (Reason.POD_IN, Reason.NAMESPACE_IN))


SIDECAR = {"sidecar.istio.io/status": "{}"}


@pytest.mark.parametrize(
    ("subject", "want"),
    [
        (pod(IN, namespace="kube-system", host=True), Reason.EXCLUDED),
        (pod(IN, host=True, annotations=SIDECAR), Reason.HOST_NETWORK),
        (pod({**IN, "app": "ztunnel"}, namespace="istio-system"), Reason.TUNNEL),
        (pod({**IN, "app": "ztunnel"}), Reason.POD_IN),
        (pod(IN, annotations=SIDECAR, phase="Failed"), Reason.SIDECAR),
        (pod(IN, phase="Succeeded"), Reason.FINISHED),
        (pod(IN, phase="Failed"), Reason.FINISHED),
    ],
)
def test_what_labels_cannot_change(subject: Pod, want: Reason) -> None:
    assert decide(subject, namespace(IN), EXCLUSIONS) is want


def test_a_namespace_that_is_not_known_has_no_labels() -> None:
    assert decide(pod(), None, EXCLUSIONS) is Reason.NOT_LABELLED
    assert decide(pod(IN), None, EXCLUSIONS) is Reason.POD_IN


def test_an_unknown_value_is_named_with_what_is_allowed() -> None:
    text = label_problem("Pod", pod(ODD))
    assert "shop/web" in text
    assert "'sidecar'" in text
    assert "'ambient' and 'none'" in text
    assert label_problem("Namespace", namespace(ODD)).startswith("Namespace shop:")
    assert not any(label_problem("Pod", pod(labels)) for labels in (None, IN, OUT))


@pytest.mark.parametrize(
    ("annotations", "want"),
    [
        ({}, CaptureWishes(True, None, ())),
        ({"ambient.istio.io/bypass-inbound-capture": "T"}, CaptureWishes(False, None, ())),
        ({"ambient.istio.io/bypass-inbound-capture": "yes"}, CaptureWishes(True, None, ())),
        ({"ambient.istio.io/dns-capture": "false"}, CaptureWishes(True, False, ())),
        ({"ambient.istio.io/dns-capture": "1"}, CaptureWishes(True, True, ())),
        (
            {"istio.io/reroute-virtual-interfaces": " tap0, ,net1," + "x" * 16},
            CaptureWishes(True, None, ("tap0", "net1")),
        ),
    ],
)
def test_annotations_about_capture(annotations: dict[str, str], want: CaptureWishes) -> None:
    assert capture_wishes(pod(annotations=annotations)) == want
