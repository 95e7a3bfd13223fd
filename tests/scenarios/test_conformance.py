"""The Gateway API's conformance tests for meshes (profiles MESH-HTTP and MESH-GRPC), retold.

Each case has the name of upstream's test; which feature it shows is in ``docs/compatibility.md``.
"""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.scenarios.mesh import DEADLINE_S, FOLDER, Mesh, until

NAMESPACE, CONSUMER = "conformance", "consumer"
MARK = "--next--"
V1, V2, BOTH = "echo-v1", "echo-v2", "echo"
Json = dict[str, Any]


class Try(NamedTuple):
    """A request of the client, and what has to come of it; None: whatever it is."""

    path: str = "/"
    sent: Mapping[str, str] = {}
    host: str = BOTH
    client: tuple[str, str] = (V1, NAMESPACE)
    status: int = 200
    by: str | None = None
    location: str | None = None
    arrived: Mapping[str, str] = {}
    """Headers of the request as the application saw them; ``path`` too."""
    lost: tuple[str, ...] = ()
    told: Mapping[str, str] = {}
    """Headers of the response."""
    untold: tuple[str, ...] = ()


def path(value: str) -> Json:
    return {"path": {"type": "PathPrefix", "value": value}}


def header(name: str, value: str) -> Json:
    return {"headers": [{"name": name, "value": value}]}


def query(value: str) -> Json:
    return {"queryParams": [{"name": "animal", "value": value}]}


def to(name: str, port: int = 8080, **more: Any) -> list[Json]:
    return [{"name": name, "port": port, **more}]


def rule(*matches: Json, backends: list[Json] | None = None, **filters: Json) -> Json:
    """``filters`` by the name of their field."""
    made = [{"type": name[0].upper() + name[1:], name: spec} for name, spec in filters.items()]
    for one in made:
        one["type"] = one["type"].replace("Url", "URL")
    found: Json = {"matches": list(matches)} if matches else {}
    return found | ({"backendRefs": backends} if backends else {}) | {"filters": made}


def redirect(match: str, **spec: Any) -> Json:
    return rule(path(match), requestRedirect=spec)


def edits(**spec: Any) -> Json:
    """Of headers: ``set`` and ``add`` as mappings, ``remove`` as a list."""
    return {
        kind: found
        if kind == "remove"
        else [{"name": name, "value": value} for name, value in found.items()]
        for kind, found in spec.items()
    }


PREFIX = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/replacement-prefix"}
FULL = {"type": "ReplaceFullPath", "replaceFullPath": "/replacement-full"}
MANY = edits(
    set={"X-Header-Set-1": "header-set-1", "X-Header-Set-2": "header-set-2"},
    add={"X-Header-Add-1": "add-1", "X-Header-Add-2": "add-2", "X-Header-Add-3": "add-3"},
    remove=["X-Header-Remove-1", "X-Header-Remove-2"],
)
MODIFIERS = {
    "/set": edits(set={"X-Header-Set": "overwritten"}),
    "/add": edits(add={"X-Header-Add": "appended"}),
    "/remove": edits(remove=["X-Header-Remove"]),
    "/multiple": MANY,
    "/case": edits(
        set={"X-Header-Set": "set"}, add={"X-Header-Add": "added"}, remove=["X-Header-Remove"]
    ),
}
MODIFIED = [
    Try("/set", {"Other": "val"}, by=V1, arrived={"x-header-set": "overwritten", "other": "val"}),
    Try("/set", {"X-Header-Set": "mine"}, by=V1, arrived={"x-header-set": "overwritten"}),
    Try("/add", by=V1, arrived={"x-header-add": "appended"}),
    Try("/add", {"X-Header-Add": "mine"}, by=V1, arrived={"x-header-add": "mine,appended"}),
    Try("/remove", {"X-Header-Remove": "val"}, by=V1, lost=("x-header-remove",)),
    Try(
        "/multiple",
        {"X-Header-Set-2": "a", "X-Header-Add-2": "mine", "X-Header-Remove-2": "b"},
        by=V1,
        arrived={
            "x-header-set-1": "header-set-1",
            "x-header-set-2": "header-set-2",
            "x-header-add-1": "add-1",
            "x-header-add-2": "mine,add-2",
            "x-header-add-3": "add-3",
        },
        lost=("x-header-remove-1", "x-header-remove-2"),
    ),
    Try(
        "/case",
        {"x-header-set": "a", "x-header-add": "mine", "x-header-remove": "b"},
        arrived={"x-header-set": "set", "x-header-add": "mine,added"},
        lost=("x-header-remove",),
    ),
]
REWRITTEN = edits(
    set={"X-Header-Set": "overwritten"},
    add={"X-Header-Add": "added", "X-Header-Append": "appended"},
    remove=["X-Header-Remove"],
)
SENT = {"X-Header-Remove": "a", "X-Header-Append": "mine", "X-Header-Set": "b"}
SEEN = {"x-header-add": "added", "x-header-append": "mine,appended", "x-header-set": "overwritten"}


def rewrite(kind: str, value: str) -> Json:
    return {"path": {"type": f"Replace{kind}", f"replace{kind}": value}}


class Case(NamedTuple):
    """Rules of an HTTPRoute of the Service ``echo``, and what is tried with it."""

    rules: list[Json]
    tries: list[Try]


CASES: dict[str, Case] = {
    "MeshHTTPRouteSimpleSameNamespace": Case([rule(backends=to(V1))], [Try("/", by=V1)]),
    "MeshTrafficSplit": Case(
        [rule(path("/v1"), backends=to(V1, 80)), rule(path("/v2"), backends=to(V2, 80))],
        [Try("/v1", by=V1), Try("/v2", by=V2)],
    ),
    "MeshHTTPRouteMatching": Case(
        [
            rule(path("/"), header("version", "one"), backends=to(V1)),
            rule(path("/v2"), header("version", "two"), backends=to(V2)),
        ],
        [
            Try("/", by=V1),
            Try("/example", by=V1),
            Try("/", {"Version": "one"}, by=V1),
            Try("/v2", by=V2),
            Try("/v2/example", by=V2),
            Try("/", {"Version": "two"}, by=V2),
            Try("/v2/", by=V2),
            Try("/v2example", by=V1),
            Try("/foo/v2/example", by=V1),
        ],
    ),
    "MeshHTTPRouteNamedRule": Case(
        [
            {"name": "named-rule", **rule(path("/named"), backends=to(V1))},
            rule(path("/unnamed"), backends=to(V2)),
        ],
        [Try("/named", by=V1), Try("/unnamed", by=V2)],
    ),
    "MeshHTTPRouteQueryParamMatching": Case(
        [
            rule(query("whale"), backends=to(V1)),
            rule(query("dolphin"), backends=to(V2)),
            rule({**path("/path1"), **query("whale")}, backends=to(V1)),
            rule({**header("version", "one"), **query("whale")}, backends=to(V2)),
            rule(
                {**path("/path3"), **query("shark")},
                {**path("/path4"), **header("version", "three"), **query("kraken")},
                backends=to(V1),
            ),
            rule(path("/path5"), backends=to(V1)),
            rule(query("hydra"), backends=to(V2)),
        ],
        [
            Try("/?animal=whale", by=V1),
            Try("/?animal=dolphin", by=V2),
            Try("/?animal=whale&otherparam=irrelevant", by=V1),
            Try("/?animal=dolphin&color=yellow", by=V2),
            Try("/?color=blue", status=404),
            Try("/?animal=dog", status=404),
            Try("/?animal=whaledolphin", status=404),
            Try("/", status=404),
            Try("/path1?animal=whale", by=V1),
            Try("/?animal=whale", {"version": "one"}, by=V2),
            Try("/path3?animal=shark", by=V1),
            Try("/path4?animal=kraken", {"version": "three"}, by=V1),
            Try("/?animal=shark", status=404),
            Try("/path4?animal=kraken", status=404),
            Try("/path5?animal=hydra", by=V1),
        ],
    ),
    "MeshHTTPRouteRedirectHostAndStatus": Case(
        [
            redirect("/hostname", hostname="example.org"),
            redirect("/both", hostname="example.org", statusCode=301),
        ],
        [
            Try("/hostname", status=302, location="http://example.org/hostname"),
            Try("/both", status=301, location="http://example.org/both"),
        ],
    ),
    "MeshHTTPRouteRedirectPath": Case(
        [
            redirect("/original", path=PREFIX),
            redirect("/full", path=FULL),
            redirect("/path-and-host", path=PREFIX, hostname="example.org"),
            redirect("/path-and-status", path=PREFIX, statusCode=301),
            redirect("/full-and-host", path=FULL, hostname="example.org"),
            redirect("/full-and-status", path=FULL, statusCode=301),
        ],
        [
            Try("/original/lemon", status=302, location="http://echo/replacement-prefix/lemon"),
            Try("/full/path/original", status=302, location="http://echo/replacement-full"),
            Try("/path-and-host", status=302, location="http://example.org/replacement-prefix"),
            Try("/path-and-status", status=301, location="http://echo/replacement-prefix"),
            Try("/full-and-host", status=302, location="http://example.org/replacement-full"),
            Try("/full-and-status", status=301, location="http://echo/replacement-full"),
        ],
    ),
    "MeshHTTPRouteRedirectPort": Case(
        [
            redirect("/port", port=8083),
            redirect("/port-and-host", port=8083, hostname="example.org"),
            redirect("/port-and-status", port=8083, statusCode=301),
            redirect("/all", port=8083, hostname="example.org", statusCode=302),
        ],
        [
            Try("/port", status=302, location="http://echo:8083/port"),
            Try("/port-and-host", status=302, location="http://example.org:8083/port-and-host"),
            Try("/port-and-status", status=301, location="http://echo:8083/port-and-status"),
            Try("/all", status=302, location="http://example.org:8083/all"),
        ],
    ),
    "MeshHTTPRouteSchemeRedirect": Case(
        [
            redirect("/scheme", scheme="https"),
            redirect("/scheme-and-host", scheme="https", hostname="example.org"),
            redirect("/scheme-and-status", scheme="https", statusCode=301),
            redirect("/all", scheme="https", hostname="example.org", statusCode=302),
        ],
        [
            Try("/scheme", status=302, location="https://echo/scheme"),
            Try("/scheme-and-host", status=302, location="https://example.org/scheme-and-host"),
            Try("/scheme-and-status", status=301, location="https://echo/scheme-and-status"),
            Try("/all", status=302, location="https://example.org/all"),
        ],
    ),
    "MeshHTTPRoute303Redirect, MeshHTTPRoute307Redirect, MeshHTTPRoute308Redirect": Case(
        [
            redirect(f"/{code}", statusCode=code, path={**FULL, "replaceFullPath": "/new"})
            for code in (303, 307, 308)
        ],
        [
            Try(f"/{code}", status=code, location="http://echo/new") for code in (303, 307, 308)
        ],
    ),
    "MeshHTTPRouteRequestHeaderModifier": Case(
        [
            rule(path(at), backends=to(V1), requestHeaderModifier=spec)
            for at, spec in MODIFIERS.items()
        ],
        MODIFIED,
    ),
    "MeshHTTPRouteBackendRequestHeaderModifier": Case(
        [
            rule(
                path(at),
                backends=to(
                    V1,
                    filters=[{"type": "RequestHeaderModifier", "requestHeaderModifier": spec}],
                ),
            )
            for at, spec in MODIFIERS.items()
        ],
        MODIFIED,
    ),
    "MeshHTTPRouteRewritePath": Case(
        [
            rule(path("/prefix/one"), backends=to(V1), urlRewrite=rewrite("PrefixMatch", "/one")),
            rule(path("/strip"), backends=to(V1), urlRewrite=rewrite("PrefixMatch", "/")),
            rule(path("/full/one"), backends=to(V1), urlRewrite=rewrite("FullPath", "/one")),
            rule(
                path("/full/edit"),
                backends=to(V1),
                urlRewrite=rewrite("FullPath", "/test"),
                requestHeaderModifier=REWRITTEN,
            ),
            rule(
                path("/prefix/edit"),
                backends=to(V1),
                urlRewrite=rewrite("PrefixMatch", "/prefix"),
                requestHeaderModifier=REWRITTEN,
            ),
        ],
        [
            Try("/prefix/one/two", by=V1, arrived={"path": "/one/two"}),
            Try("/strip/three", by=V1, arrived={"path": "/three"}),
            Try("/strip", by=V1, arrived={"path": "/"}),
            Try("/full/one/two", by=V1, arrived={"path": "/one"}),
            Try("/full/edit/test", SENT, arrived={"path": "/test", **SEEN},
                lost=("x-header-remove",)),
            Try("/prefix/edit/one", SENT, arrived={"path": "/prefix/one", **SEEN},
                lost=("x-header-remove",)),
        ],
    ),
}  # fmt: skip
ANSWERING = edits(set={"X-Header-Set": "set"})
ANSWERED = {"x-header-set": "set"}


@pytest.fixture(scope="module")
def echo(mesh: Mesh) -> Iterator[Mesh]:
    """The services that echo, behind a waypoint of their own."""
    program = f"--from-file={FOLDER}/programs/echo.py"
    with mesh.applied("conformance/echo", wait=False):
        for namespace in (NAMESPACE, CONSUMER):
            mesh.kubectl("create", "configmap", "programs", "-n", namespace, program)
        mesh.ready(NAMESPACE, V1, V2)
        mesh.ready(CONSUMER, "client")
        mesh.kubectl(
            "wait", "gateway/waypoint", "-n", NAMESPACE, "--for=condition=Programmed",
            "--timeout=60s",
        )  # fmt: skip
        until(lambda: wrong(mesh, [Try(told={"server": "istio-envoy"})]) == [])
        yield mesh


def apply(mesh: Mesh, folder: Path, *routes: Json) -> None:
    written = folder / "routes.json"
    written.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(routes)}))
    mesh.kubectl("apply", "-f", written)


def route(
    rules: list[Json],
    *,
    service: str = BOTH,
    port: int | None = 80,
    name: str = "case",
    namespace: str = NAMESPACE,
    kind: str = "HTTPRoute",
) -> Json:
    parent: Json = {"group": "", "kind": "Service", "name": service, "namespace": NAMESPACE}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"parentRefs": [parent | ({"port": port} if port else {})], "rules": rules},
    }


def wrong(mesh: Mesh, tries: list[Try]) -> list[str]:
    """What did not come out as it has to; all tries are of one client."""
    commands = []
    for one in tries:
        headers = [word for pair in one.sent.items() for word in ("-H", ": ".join(pair))]
        command = ["curl", "-s", "-i", "-m", "10", *headers, f"http://{one.host}{one.path}"]
        commands.append(f"{shlex.join(command)}; printf '\\n{MARK}\\n'")
    pod, namespace = tries[0].client
    out = mesh.inside("sh", "-c", "; ".join(commands), pod=pod, namespace=namespace)
    answers = [one.lstrip("\n") for one in out.split(f"\n{MARK}")][: len(tries)]
    return [text for one, got in zip(tries, answers, strict=True) for text in differences(one, got)]


def differences(wanted: Try, answer: str) -> Iterator[str]:
    head, _, body = answer.partition("\n\n")
    first, *lines = head.splitlines() or [""]
    told = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    echoed = json.loads(body) if body.startswith("{") else {}
    arrived = {**echoed.get("headers", {}), "path": echoed.get("path")}
    pairs: list[tuple[str, object, object]] = [
        ("status", str(wanted.status), (first.split() or ["", ""])[1])
    ]
    pairs += [("by", wanted.by, echoed.get("by"))] if wanted.by else []
    pairs += [("location", wanted.location, told.get("location"))] if wanted.location else []
    pairs += [(name, value, arrived.get(name)) for name, value in wanted.arrived.items()]
    pairs += [(name, None, arrived.get(name)) for name in wanted.lost]
    pairs += [(name, value, told.get(name)) for name, value in wanted.told.items()]
    pairs += [(name, None, told.get(name)) for name in wanted.untold]
    for what, right, found in pairs:
        if right != found:
            yield f"{wanted.host}{wanted.path}: {what} is {found}, not {right}"


def come_true(mesh: Mesh, *several: list[Try]) -> None:
    """Eventually, as upstream has it: the route is on its way to the waypoint."""
    deadline = time.monotonic() + DEADLINE_S
    while found := [text for tries in several for text in wrong(mesh, tries)]:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_mesh_basic(echo: Mesh) -> None:
    come_true(echo, [Try()])


@pytest.mark.parametrize("name", CASES)
def test_http_route(echo: Mesh, tmp_path: Path, name: str) -> None:
    apply(echo, tmp_path, route(CASES[name].rules))
    try:
        come_true(echo, CASES[name].tries)
    finally:
        echo.kubectl("delete", "-f", tmp_path / "routes.json")


def test_mesh_frontend_and_ports(echo: Mesh, tmp_path: Path) -> None:
    """MeshFrontend, MeshFrontendHostname, MeshPorts."""
    of_port = route(
        [rule(backends=to(V1, 80), responseHeaderModifier=ANSWERING)], service=V1, name="port"
    )
    of_all = route(
        [rule(backends=to(V2, 80), responseHeaderModifier=ANSWERING)],
        service=V2, port=None, name="all",
    )  # fmt: skip
    apply(echo, tmp_path, of_port, of_all)
    address = echo.kubectl(
        "get",
        "pods",
        "-n",
        NAMESPACE,
        "-l",
        "version=v2",
        "-o",
        "jsonpath={.items[0].status.podIP}",
    )
    plain = ("x-header-set",)
    try:
        come_true(
            echo,
            [
                Try(host=V1, by=V1, told=ANSWERED),
                Try(host=f"{V1}:8080", by=V1, untold=plain),
                Try(host=V2, by=V2, told=ANSWERED),
                Try(host=f"{V2}:8080", by=V2, told=ANSWERED),
                # By the Service's address, whatever the Host says; never by a pod's own.
                Try(sent={"Host": V1}, host=V2, by=V2, told=ANSWERED),
                Try(sent={"Host": V2}, host=f"{V1}:8080", by=V1, untold=plain),
                Try(host=f"{address}:8080", by=V2, untold=plain),
            ],
        )
    finally:
        echo.kubectl("delete", "-f", tmp_path / "routes.json")


def test_mesh_consumer_route(echo: Mesh, tmp_path: Path) -> None:
    backends = to(V1, 80, namespace=NAMESPACE)
    made = route(
        [rule(backends=backends, responseHeaderModifier=ANSWERING)],
        service=V1, port=None, namespace=CONSUMER,
    )  # fmt: skip
    apply(echo, tmp_path, made)
    host = f"{V1}.{NAMESPACE}"
    try:
        come_true(
            echo,
            [Try(host=host, client=("client", CONSUMER), by=V1, told=ANSWERED)],
            [Try(host=host, by=V1, untold=("x-header-set",))],
        )
    finally:
        echo.kubectl("delete", "-f", tmp_path / "routes.json")


def shares(found: list[str]) -> bool:
    """Whether 7 of 10 went to the first version, within five standard deviations."""
    counts = Counter(found)
    assert set(counts) <= {V1, V2}
    return abs(counts[V1] / len(found) - 0.7) < 0.165


WEIGHTS = [{"name": V1, "port": 8080, "weight": 7}, {"name": V2, "port": 8080, "weight": 3}]


def test_http_route_weight(echo: Mesh, tmp_path: Path) -> None:
    """MeshHTTPRouteWeight."""

    def answers(times: int) -> list[str]:
        command = ("curl", "-s", "-w", "\\n", f"http://{BOTH}/?[1-{times}]")
        lines = echo.inside(*command, pod=V1, namespace=NAMESPACE).splitlines()
        return [json.loads(line)["by"] for line in lines if line]

    apply(echo, tmp_path, route([rule(backends=WEIGHTS, responseHeaderModifier=ANSWERING)]))
    try:
        come_true(echo, [Try(told=ANSWERED)])
        assert shares(answers(200))
    finally:
        echo.kubectl("delete", "-f", tmp_path / "routes.json")


def say(mesh: Mesh, times: int = 1, **metadata: str) -> list[Json]:
    words = [f"{name.replace('_', '-')}={value}" for name, value in metadata.items()]
    command = ("python", "/var/run/programs/echo.py", "call", f"{BOTH}:7070", str(times), *words)
    out = mesh.inside("sh", "-c", f"{shlex.join(command)} || true", pod=V1, namespace=NAMESPACE)
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def test_grpc_route(echo: Mesh, tmp_path: Path) -> None:
    """MeshGRPCRouteRequestHeaderModifier, MeshGRPCRouteWeight."""
    modifiers = {
        "set": edits(set={"x-header-set": "overwritten"}),
        "add": edits(add={"x-header-add": "appended"}),
        "remove": edits(remove=["x-header-remove"]),
        "multi": MANY,
    }
    rules = [
        rule(
            header("x-test-case", name),
            backends=to(V2 if name == "multi" else V1, 7070),
            requestHeaderModifier={
                kind: [one if isinstance(one, str) else {**one, "name": one["name"].lower()}
                       for one in found]
                for kind, found in spec.items()
            },
        )
        for name, spec in modifiers.items()
    ]  # fmt: skip
    rules.append(rule(backends=[{**one, "port": 7070} for one in WEIGHTS]))
    apply(echo, tmp_path, route(rules, port=7070, kind="GRPCRoute"))

    def seen(by: str, **sent: str) -> dict[str, str]:
        found = say(echo, **sent)
        return found[0]["headers"] if found and found[0]["by"] == by else {}

    try:
        until(
            lambda: (
                seen(V1, x_test_case="set", x_header_set="mine").get("x-header-set")
                == "overwritten"
            )
        )
        added = seen(V1, x_test_case="add", x_header_add="mine")
        assert added["x-header-add"].replace(", ", ",") == "mine,appended"
        kept = seen(V1, x_test_case="remove", x_header_remove="a")
        assert kept["x-test-case"] == "remove"
        assert "x-header-remove" not in kept
        many = seen(V2, x_test_case="multi", x_header_set_2="a", x_header_remove_2="b")
        assert (many["x-header-set-1"], many["x-header-set-2"]) == ("header-set-1", "header-set-2")
        assert (many["x-header-add-1"], "x-header-remove-2" in many) == ("add-1", False)
        assert shares([one["by"] for one in say(echo, 200)])
    finally:
        echo.kubectl("delete", "-f", tmp_path / "routes.json")
