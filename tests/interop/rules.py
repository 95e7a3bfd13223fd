"""The same rules for both: of a VirtualService, and the routes of Envoy that istiod makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.interop.pair import typed
from waypoint.core.grpc import GrpcStatus

Rule = Mapping[str, Any]
TO_REVIEWS = [{"destination": {"host": "reviews"}}]
PREVIOUS_HOSTS = {
    "name": "envoy.retry_host_predicates.previous_hosts",
    "typed_config": typed("retry.host.previous_hosts.v3.PreviousHostsPredicate"),
}
REDIRECT_CODES = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}


def our_rules(rules: Mapping[str, Rule]) -> Iterator[Rule]:
    """Rules of a VirtualService, by exact path; what else comes is forwarded. None retries unless
    it says so."""
    for path, rule in {**rules, "": {}}.items():
        match = [{"uri": {"exact": path}}] if path else []
        made = {"match": match, "route": TO_REVIEWS, "retries": {"attempts": 0}, **rule}
        if "redirect" in rule or "directResponse" in rule:
            del made["route"]
        yield made


def envoy_routes(rules: Mapping[str, Rule]) -> list[dict[str, Any]]:
    """The same for Envoy. Destinations without a subset are the cluster of their name."""
    return [_route(path, rule) for path, rule in {**rules, "": {}}.items()]


def _route(path: str, rule: Rule) -> dict[str, Any]:
    matches = rule.get("match", [{"uri": {"exact": path} if path else {"prefix": "/"}}])
    made: dict[str, Any] = {"match": _match(matches[0]), "name": path}
    if "redirect" in rule:
        made["redirect"] = _redirect(rule["redirect"])
    elif "directResponse" in rule:
        direct = rule["directResponse"]
        made["direct_response"] = {"status": direct["status"]}
        if "body" in direct:
            made["direct_response"]["body"] = {"inline_string": direct["body"]["string"]}
    else:
        made["route"] = _action(rule)
    return {
        **made,
        **_rule_edits(rule),
        "typed_per_filter_config": dict(_per_filter(rule)),
    }


def _match(match: Mapping[str, Any]) -> dict[str, Any]:
    ((kind, value),) = match["uri"].items()
    if kind == "regex":
        return {"safe_regex": {"regex": value}}
    return {{"exact": "path", "prefix": "prefix"}[kind]: value}


def _action(rule: Rule) -> dict[str, Any]:
    limit = rule.get("timeout", "0s")
    action = {"timeout": limit, "max_grpc_timeout": limit, **_rewrite(rule)}
    destinations = rule.get("route", TO_REVIEWS)
    if len(destinations) == 1:
        action["cluster"] = destinations[0]["destination"]["host"]
    else:
        action["weighted_clusters"] = {
            "clusters": [
                {
                    "name": one["destination"]["host"],
                    "weight": one.get("weight", 1),
                    **_edits(one.get("headers", {})),
                }
                for one in destinations
            ]
        }
    if rule.get("retries", {}).get("attempts"):
        action["retry_policy"] = _retries(rule["retries"])
    return action


def _retries(retries: Mapping[str, Any]) -> dict[str, Any]:
    words = retries.get("retryOn", "").split(",")
    codes = [int(word) for word in words if word.isdigit()]
    on = [word for word in words if not word.isdigit()] + ["retriable-status-codes"] * bool(codes)
    policy = {
        "retry_on": ",".join(on),
        "num_retries": retries["attempts"],
        "retriable_status_codes": codes,
        "retry_host_predicate": [PREVIOUS_HOSTS],
        "host_selection_retry_max_attempts": 5,
    }
    if "backoff" in retries:
        policy["retry_back_off"] = {"base_interval": retries["backoff"]}
    if "perTryTimeout" in retries:
        policy["per_try_timeout"] = retries["perTryTimeout"]
    return policy


def _rewrite(rule: Rule) -> dict[str, Any]:
    rewrite, made = rule.get("rewrite", {}), {}
    if "authority" in rewrite:
        made["host_rewrite_literal"] = rewrite["authority"]
    if edit := rewrite.get("uriRegexRewrite"):
        pattern = {"regex": edit["match"]}
        made["regex_rewrite"] = {"pattern": pattern, "substitution": edit["rewrite"]}
    if "uri" in rewrite:
        by_regex = "regex" in rule.get("match", [{"uri": {}}])[0]["uri"]
        whole = {"pattern": {"regex": ".*"}, "substitution": rewrite["uri"]}
        made |= {"regex_rewrite": whole} if by_regex else {"prefix_rewrite": rewrite["uri"]}
    return made


def _redirect(spec: Mapping[str, Any]) -> dict[str, Any]:
    made = {"response_code": REDIRECT_CODES[spec.get("redirectCode", 301)]}
    for ours, theirs in (
        ("authority", "host_redirect"),
        ("scheme", "scheme_redirect"),
        ("port", "port_redirect"),
        ("uri", "path_redirect"),
        ("prefixRewrite", "prefix_rewrite"),
    ):
        if ours in spec:
            made[theirs] = spec[ours]
    if spec.get("derivePort") == "FROM_REQUEST_PORT":
        made["port_redirect"] = 9080
    if made.get("port_redirect") == {"https": 443}.get(spec.get("scheme", ""), 80):
        del made["port_redirect"]
    return made


def _rule_edits(rule: Rule) -> dict[str, Any]:
    """With those of the only destination."""
    made = _edits(rule.get("headers", {}))
    destinations = rule.get("route", TO_REVIEWS)
    if len(destinations) == 1:
        for name, more in _edits(destinations[0].get("headers", {})).items():
            made[name] += more
    return made


def _edits(headers: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for side in ("request", "response"):
        edits = headers.get(side, {})
        made[f"{side}_headers_to_add"] = [
            {"header": {"key": key, "value": value}, "append_action": how}
            for kind, how in (
                ("add", "APPEND_IF_EXISTS_OR_ADD"),
                ("set", "OVERWRITE_IF_EXISTS_OR_ADD"),
            )
            for key, value in edits.get(kind, {}).items()
        ]
        made[f"{side}_headers_to_remove"] = edits.get("remove", [])
    return made


def _per_filter(rule: Rule) -> Iterator[tuple[str, Any]]:
    if "corsPolicy" in rule:
        yield "envoy.filters.http.cors", _cors(rule["corsPolicy"])
    if "fault" not in rule:
        return
    spec = {}
    if wanted := rule["fault"].get("delay"):
        spec["delay"] = {"fixed_delay": wanted["fixedDelay"], "percentage": _share(wanted)}
    if wanted := rule["fault"].get("abort"):
        spec["abort"] = {"percentage": _share(wanted)}
        if "grpcStatus" in wanted:
            spec["abort"]["grpc_status"] = int(GrpcStatus[wanted["grpcStatus"]])
        else:
            spec["abort"]["http_status"] = wanted["httpStatus"]
    yield "envoy.filters.http.fault", typed("filters.http.fault.v3.HTTPFault", **spec)


def _cors(policy: Mapping[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "allow_origin_string_match": [
            {"safe_regex": {"regex": one["regex"]}} if "regex" in one else one
            for one in policy.get("allowOrigins", [])
        ],
        "forward_not_matching_preflights": policy.get("unmatchedPreflights") != "IGNORE",
        "allow_credentials": policy.get("allowCredentials", False),
    }
    for ours, theirs in (
        ("allowMethods", "allow_methods"),
        ("allowHeaders", "allow_headers"),
        ("exposeHeaders", "expose_headers"),
    ):
        spec[theirs] = ",".join(policy.get(ours, []))
    if "maxAge" in policy:
        spec["max_age"] = policy["maxAge"].rstrip("s")
    return typed("filters.http.cors.v3.CorsPolicy", **spec)


def _share(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"numerator": round(part["percentage"]["value"] * 10_000), "denominator": "MILLION"}
