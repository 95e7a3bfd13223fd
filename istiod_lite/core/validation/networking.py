"""VirtualService, DestinationRule, ServiceEntry, WorkloadEntry, WorkloadGroup
(istio pkg/config/validation)."""

from __future__ import annotations

from typing import Final

from istiod_lite.core.validation.report import Field

RESOLUTIONS: Final = ("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS")
LOCATIONS: Final = ("MESH_EXTERNAL", "MESH_INTERNAL")
PROTOCOLS: Final = (
    "HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS", "REDIS", "MYSQL", "UDP",
    "HTTP_PROXY", "THRIFT",
)  # fmt: skip
BALANCERS: Final = (
    "UNSPECIFIED", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST", "LEAST_CONN",
)  # fmt: skip
TLS_MODES: Final = ("DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL")
HASH_KEYS: Final = ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName")
RETRY_CONDITIONS: Final = (
    "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure",
    "envoy-ratelimited", "retriable-4xx", "refused-stream", "retriable-status-codes",
    "retriable-headers", "http3-post-connect-failure", "cancelled", "deadline-exceeded",
    "internal", "resource-exhausted", "unavailable",
)  # fmt: skip
GRPC_STATUSES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
MATCHES: Final = ("exact", "prefix", "regex")


def virtual_service(spec: Field) -> None:
    """Routes of hosts."""
    spec.known({"hosts", "gateways", "http", "tls", "tcp", "exportTo"})
    if spec["hosts"].given:
        _hosts(spec["hosts"])
    elif spec["tls"].given or spec["tcp"].given:
        spec["hosts"].wrong("is missing", "only a delegate has no hosts, and it has http alone")
    if not any(spec[name].given for name in ("http", "tls", "tcp")):
        spec.wrong("has no routes", "give it http, tls or tcp")
    seen_all = ""
    for route in spec["http"].items():
        if seen_all:
            route.warn(f"is never reached: {seen_all} takes every request", "put it first")
        _http(route)
        if not route["match"].given:
            seen_all = seen_all or route.path
    for kind in ("tls", "tcp"):
        for route in spec[kind].items():
            route["route"].required("say where the connection goes")
            _destinations(route["route"])
            if kind == "tls":
                for match in route["match"].items():
                    match["sniHosts"].required("TLS is matched by server name")


def destination_rule(spec: Field) -> None:
    """How a host is called."""
    spec.known({"host", "trafficPolicy", "subsets", "exportTo", "workloadSelector"})
    if spec["host"].required("name the service that is called"):
        _short_host(spec["host"])
    _traffic_policy(spec["trafficPolicy"])
    names: set[str] = set()
    for subset in spec["subsets"].items():
        name = subset["name"].text()
        if subset["name"].required("routes refer to it by name") and name in names:
            subset["name"].wrong(f"{name!r} is there twice", "rename one")
        names.add(name)
        for label, value in subset["labels"].entries():
            if not label or not isinstance(value.value, str):
                value.wrong("is no label", "labels are text")
        _traffic_policy(subset["trafficPolicy"])


def service_entry(spec: Field) -> None:
    """A service that Kubernetes does not know."""
    spec.known({
        "hosts", "addresses", "ports", "location", "resolution", "endpoints", "workloadSelector",
        "exportTo", "subjectAltNames",
    })  # fmt: skip
    _hosts(spec["hosts"])
    resolution = spec["resolution"].one_of(RESOLUTIONS) or "NONE"
    spec["location"].one_of(LOCATIONS)
    spec["workloadSelector"].known({"labels"})
    for address in spec["addresses"].items():
        address.address()
    _service_ports(spec["ports"])
    endpoints = spec["endpoints"]
    if endpoints.given and spec["workloadSelector"].given:
        spec.wrong("has endpoints and workloadSelector", "keep one of them")
    if resolution == "NONE" and endpoints.given:
        endpoints.wrong("resolution NONE ignores them", "use resolution STATIC or DNS")
    if resolution == "STATIC" and not endpoints.given and not spec["workloadSelector"].given:
        spec.warn("STATIC without endpoints has nowhere to go", "give it endpoints or a selector")
    ports = {str(one["name"].value) for one in spec["ports"].items()}
    for endpoint in endpoints.items():
        _endpoint(endpoint, names_only=resolution.startswith(("DNS", "DYNAMIC")))
        for name, _ in endpoint["ports"].entries():
            if name not in ports:
                endpoint["ports"].wrong(f"{name!r} is no port of the entry", "use a name of ports")
    wild = any(one.text().startswith("*") for one in spec["hosts"].items())
    if wild and resolution in ("DNS", "DNS_ROUND_ROBIN") and not endpoints.given:
        spec["hosts"].wrong(
            "a wildcard cannot be looked up", "use resolution NONE or DYNAMIC_DNS, or endpoints"
        )


def workload_entry(spec: Field) -> None:
    """A machine outside Kubernetes."""
    _endpoint(spec, names_only=False)


def workload_group(spec: Field) -> None:
    """Machines outside Kubernetes that register themselves."""
    spec.known({"metadata", "template", "probe"})
    if spec["template"].required("it is what each machine's entry is made of"):
        if spec["template"]["address"].given:
            spec["template"]["address"].wrong("comes from each machine", "remove it")
        _ports_of(spec["template"])


def _endpoint(entry: Field, *, names_only: bool) -> None:
    entry.known({
        "address", "ports", "labels", "network", "locality", "weight", "serviceAccount",
    })  # fmt: skip
    address = entry["address"]
    if not address.given and not entry["network"].given:
        address.wrong("is missing", "give it an IP address or name, or a network")
    elif address.given and not address.is_ip() and not address.text().startswith("unix://"):
        address.host(wildcard=False)
    if names_only and address.text().startswith("unix://"):
        address.wrong("a socket has no name to look up", "use resolution STATIC")
    entry["weight"].integer(0, 2**32 - 1)
    _ports_of(entry)


def _ports_of(entry: Field) -> None:
    for _, port in entry["ports"].entries():
        port.port()


def _hosts(hosts: Field) -> None:
    if not hosts.items():
        hosts.wrong("is missing", "name at least one host")
    for host in hosts.items():
        if host.text() == "*":
            host.wrong("* alone would take all traffic", "use *.example.com")
        elif not host.is_ip():
            host.host()


def _short_host(host: Field) -> None:
    if host.text() != "*" and not host.is_ip():
        host.host()


def _service_ports(ports: Field) -> None:
    if not ports.items():
        ports.wrong("is missing", "name at least one port")
    names: set[object] = set()
    numbers: set[object] = set()
    for port in ports.items():
        port.known({"number", "protocol", "name", "targetPort"})
        port["number"].port()
        if port["targetPort"].present:
            port["targetPort"].port()
        port["name"].required("ports are told apart by name")
        protocol = port["protocol"].text().upper()
        if protocol and protocol not in PROTOCOLS:
            port["protocol"].wrong(f"{protocol!r} is not known", f"use {', '.join(PROTOCOLS)}")
        for seen, field in ((names, port["name"]), (numbers, port["number"])):
            if not isinstance(field.value, str | int):
                continue  # said above, where it is missing or no port
            if field.value in seen:
                field.wrong(f"{field.value!r} is there twice", "every port needs its own")
            seen.add(field.value)


def _http(route: Field) -> None:
    actions = [name for name in ("route", "redirect", "directResponse") if route[name].given]
    if len(actions) != 1 and not route["delegate"].given:
        said = " and ".join(actions) if actions else "neither"
        route.wrong(f"has {said}", "give it exactly one of route, redirect, directResponse")
    _http_matches(route["match"])
    _destinations(route["route"])
    route["timeout"].duration()
    _retries(route["retries"])
    if route["rewrite"]["uriRegexRewrite"].given:
        route["rewrite"]["uriRegexRewrite"]["match"].pattern()
        if route["rewrite"]["uri"].given:
            route["rewrite"].wrong("has uri and uriRegexRewrite", "keep one of them")
    for origin in route["corsPolicy"]["allowOrigins"].items():
        _string_match(origin)
    route["corsPolicy"]["maxAge"].duration()
    status = route["directResponse"]
    if status.given:
        status["status"].integer(200, 599)
    _fault(route["fault"])
    if route["mirror"].given:
        route["mirror"]["host"].required("name the service that gets the copy")
        _percentage(route["mirrorPercentage"])
    for mirror in route["mirrors"].items():
        mirror["destination"]["host"].required("name the service that gets the copy")
        _percentage(mirror["percentage"])


def _http_matches(matches: Field) -> None:
    for match in matches.items():
        for name in ("uri", "scheme", "method", "authority"):
            _string_match(match[name])
        for name in ("headers", "queryParams", "withoutHeaders"):
            for _, one in match[name].entries():
                _string_match(one)
        if match["port"].present:
            match["port"].port()


def _retries(retries: Field) -> None:
    retries["attempts"].integer(0, 1000)
    retries["perTryTimeout"].duration()
    retries["backoff"].duration()
    for token in (part.strip() for part in retries["retryOn"].text().split(",")):
        code = token.isascii() and token.isdigit() and 100 <= int(token) <= 599
        if token and token not in RETRY_CONDITIONS and not code:
            retries["retryOn"].wrong(
                f"{token!r} is no condition", f"use {', '.join(RETRY_CONDITIONS)}, or HTTP statuses"
            )


def _percentage(spec: Field) -> None:
    share = spec["value"]
    if share.present and not (isinstance(share.value, int | float) and 0 <= share.value <= 100):
        share.wrong(f"is {share.value!r}", "use a percentage from 0 to 100")


def _fault(fault: Field) -> None:
    for name in ("delay", "abort"):
        _percentage(fault[name]["percentage"])
        if fault[name].given and not fault[name]["percentage"].given:
            fault[name].warn("has no percentage, so that nothing happens", "say percentage")
    fault["delay"]["fixedDelay"].duration()
    fault["abort"]["httpStatus"].integer(200, 599)
    fault["abort"]["grpcStatus"].one_of(GRPC_STATUSES)


def _destinations(routes: Field) -> None:
    weights = []
    for one in routes.items():
        if one["destination"]["host"].required("name the service"):
            _short_host(one["destination"]["host"])
        if one["destination"]["port"].given:
            one["destination"]["port"]["number"].port()
        one["weight"].integer(0, 2**31 - 1)
        weights.append(one["weight"].value)
    if len(weights) > 1 and not any(isinstance(one, int) and one > 0 for one in weights):
        routes.wrong("has no weight above 0", "say which share of the requests each one gets")


def _string_match(match: Field) -> None:
    if not match.given:
        return
    match.known(MATCHES)
    if len([name for name in MATCHES if match[name].present]) != 1:
        match.wrong("needs exactly one kind of match", f"use one of {', '.join(MATCHES)}")
    match["regex"].pattern()


def _traffic_policy(policy: Field) -> None:
    _settings(policy)
    if policy["tunnel"].given:
        policy["tunnel"]["targetHost"].required("the proxy has to know whither")
        policy["tunnel"]["targetPort"].port()
        policy["tunnel"]["protocol"].one_of(("CONNECT", "POST"))
    for one in policy["portLevelSettings"].items():
        one["port"]["number"].port()
        _settings(one)


def _settings(policy: Field) -> None:
    balancer = policy["loadBalancer"]
    if balancer["simple"].given and balancer["consistentHash"].given:
        balancer.wrong("has simple and consistentHash", "keep one of them")
    balancer["simple"].one_of(BALANCERS)
    policy["tls"]["mode"].one_of(TLS_MODES)
    if policy["tls"]["mode"].text() == "MUTUAL" and not policy["tls"]["credentialName"].given:
        for name in ("clientCertificate", "privateKey"):
            policy["tls"][name].required("MUTUAL shows a certificate of its own")
    policy["proxyProtocol"]["version"].one_of(("V1", "V2"))
    policy["connectionPool"]["tcp"]["connectTimeout"].duration()
    policy["connectionPool"]["tcp"]["maxConnections"].integer(0, 2**31 - 1)
    for name in ("interval", "baseEjectionTime"):
        policy["outlierDetection"][name].duration()
    policy["outlierDetection"]["maxEjectionPercent"].integer(0, 100)
    policy["outlierDetection"]["minHealthPercent"].integer(0, 100)
    _consistent_hash(balancer["consistentHash"])
    http = policy["connectionPool"]["http"]
    for name in ("http1MaxPendingRequests", "http2MaxRequests", "maxRequestsPerConnection"):
        http[name].integer(0, 2**31 - 1)
    http["maxRetries"].integer(0, 2**31 - 1)
    http["idleTimeout"].duration()
    http["h2UpgradePolicy"].one_of(("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"))
    balancer["warmup"]["duration"].duration()


def _consistent_hash(hashed: Field) -> None:
    if not hashed.given:
        return
    if len([name for name in HASH_KEYS if hashed[name].given]) != 1:
        hashed.wrong("needs exactly one key", f"use one of {', '.join(HASH_KEYS)}")
    if hashed["httpCookie"].given:
        hashed["httpCookie"]["name"].required("name the cookie")
        hashed["httpCookie"]["ttl"].duration()
    hashed["maglev"]["tableSize"].integer(1, 5000011)
