"""Hosts, ports and subsets that VirtualServices and DestinationRules name."""

from __future__ import annotations

from collections.abc import Iterator

from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Host, Item, texts
from istiod_lite.core.analysis.finding import Code, Finding
from istiod_lite.core.validation.report import Field


def destinations(corpus: Corpus) -> Iterator[Finding]:
    """Where VirtualServices lead."""
    for item in corpus.items("VirtualService"):
        for kind in ("http", "tcp", "tls"):
            for route in item.spec[kind].items():
                for one in route["route"].items():
                    yield from _destination(corpus, item, one["destination"])
                if route["mirror"].given:
                    yield from _destination(corpus, item, route["mirror"])
                for one in route["mirrors"].items():
                    yield from _destination(corpus, item, one["destination"])
                yield from _delegate(corpus, item, route["delegate"])


def _delegate(corpus: Corpus, item: Item, delegate: Field) -> Iterator[Finding]:
    name = delegate["name"].text()
    if not name:
        return
    where = delegate["namespace"].text() or item.namespace
    if corpus.get("VirtualService", where, name) is None:
        text = f"{delegate.path}: there is no VirtualService {where}/{name}"
        yield item.says(codes.NOT_FOUND, text, "correct the name", field=delegate.path)


def _destination(corpus: Corpus, item: Item, destination: Field) -> Iterator[Finding]:
    name = destination["host"].text()
    if not name:
        return
    host = corpus.find_host(name, item.namespace)
    if host is None:
        field = destination["host"].path
        yield item.says(
            codes.NOT_FOUND,
            f"{field}: no Service and no ServiceEntry has the host {name!r}",
            near(corpus, name, item.namespace),
            field=field,
        )
        return
    yield from _port(item, destination, host)
    yield from _subset(corpus, item, destination, name)


def _port(item: Item, destination: Field, host: Host) -> Iterator[Finding]:
    number = destination["port"]["number"]
    known = ", ".join(map(str, sorted(host.ports)))
    if not number.present:
        if len(host.ports) > 1:
            text = f"{destination.path}: {host.name} has several ports and the route names none"
            remedy = f"add port.number: one of {known}"
            yield item.says(codes.PORT_NEEDED, text, remedy, field=destination.path)
    elif isinstance(number.value, int) and host.ports and number.value not in host.ports:
        text = f"{number.path}: {host.name} has no port {number.value}"
        yield item.says(codes.NOT_FOUND, text, f"its ports: {known}", field=number.path)


def _subset(corpus: Corpus, item: Item, destination: Field, name: str) -> Iterator[Finding]:
    subset = destination["subset"]
    if not subset.given:
        return
    full = corpus.full_name(name, item.namespace)
    known = {
        one["name"].text()
        for rule in corpus.items("DestinationRule")
        if corpus.full_name(rule.spec["host"].text(), rule.namespace) == full
        for one in rule.spec["subsets"].items()
    }
    if subset.text() not in known:
        text = f"{subset.path}: no DestinationRule for {full} has a subset {subset.value!r}"
        remedy = (
            f"its subsets: {', '.join(sorted(known))}"
            if known
            else f"add a DestinationRule for {full} with that subset"
        )
        yield item.says(codes.NOT_FOUND, text, remedy, field=subset.path)


def near(corpus: Corpus, name: str, namespace: str) -> str:
    """The remedy for a host that is not there: the one that was meant, where there is one."""
    first = name.partition(".")[0]
    same = [
        one
        for one in corpus.hosts
        if one.partition(".")[0] == first and one != corpus.full_name(name, namespace)
    ]
    if same:
        return f"did you mean {' or '.join(sorted(same)[:3])}?"
    return "correct the name, or create the Service or ServiceEntry"


def rule_hosts(corpus: Corpus) -> Iterator[Finding]:
    """For whom DestinationRules are."""
    for item in corpus.items("DestinationRule"):
        name = item.spec["host"].text()
        if not name or name == "*":
            continue
        host = corpus.find_host(name, item.namespace)
        if host is None:
            text = f"spec.host: no Service and no ServiceEntry has the host {name!r}"
            remedy = near(corpus, name, item.namespace)
            yield item.says(codes.UNKNOWN_RULE_HOST, text, remedy, field="spec.host")
            continue
        yield from _subset_pods(corpus, item, host)
        yield from _tls(item, host)


def _subset_pods(corpus: Corpus, item: Item, host: Host) -> Iterator[Finding]:
    if not (corpus.knows("Pod") or corpus.workloads) or host.selector is None:
        return
    namespace = host.ref.key.namespace
    behind = corpus.selected(namespace, host.selector)
    if not behind:
        return
    for subset in item.spec["subsets"].items():
        labels = texts(subset["labels"])
        if labels and not any(labels.items() <= one.labels.items() for one in behind):
            shown = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
            text = f"{subset.path}: no pod of {host.name} has the labels {shown}"
            remedy = _labels_there(labels, [one.labels for one in behind])
            field = subset["labels"].path
            yield item.says(codes.SUBSET_SELECTS_NOTHING, text, remedy, field=field)


def _labels_there(wanted: dict[str, str], behind: list[dict[str, str]]) -> str:
    key = min(wanted)
    values = sorted({one[key] for one in behind if key in one})
    if values:
        return f"values of {key} there: {', '.join(values[:5])}"
    return f"its pods have no label {key}"


def _tls(item: Item, host: Host) -> Iterator[Finding]:
    policies = [item.spec["trafficPolicy"]]
    policies += [one["trafficPolicy"] for one in item.spec["subsets"].items()]
    for policy in policies:
        yield from _tls_mode(item, policy["tls"], host, codes.NO_VERIFICATION)
        for port in policy["portLevelSettings"].items():
            yield from _tls_mode(item, port["tls"], host, codes.NO_VERIFICATION_PORT)


def _tls_mode(item: Item, tls: Field, host: Host, code: Code) -> Iterator[Finding]:
    mode = tls["mode"].text()
    if mode in ("SIMPLE", "MUTUAL"):
        if not any(tls[one].given for one in ("caCertificates", "credentialName")):
            text = f"{tls.path}: mode {mode} without caCertificates: nobody checks who answers"
            yield item.says(code, text, "set caCertificates or credentialName", field=tls.path)
    elif mode in ("DISABLE", "ISTIO_MUTUAL") and host.ref.kind == "Service":
        text = (
            f"{tls.path}: mode {mode} changes nothing towards {host.name}: "
            "node tunnels encrypt between pods of the mesh"
        )
        yield item.says(codes.TLS_POLICY_IGNORED, text, "remove it", field=tls.path)
