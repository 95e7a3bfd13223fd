"""Who may do what: tables of rules, bindings and callers."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.rbac import RBAC_GROUP, Attributes, Authorizer
from ambientctl.local.apiserver.core.tokens import User, account_groups
from tests.unit.ambientctl.local.apiserver.core.test_api import Caller
from tests.unit.ambientctl.local.worlds import pod, service

API = f"{RBAC_GROUP}/v1"
PODS = "/api/v1/namespaces/shop/pods"
CART = User("system:serviceaccount:shop:cart", groups=account_groups("shop"))
ROOT = User("root", groups=("system:masters",))


def rule(verbs="get", groups="", resources="pods", **more):
    return {
        "verbs": verbs.split(),
        "apiGroups": groups.split(",") if groups else [""],
        "resources": resources.split(),
        **more,
    }


def role(name, *rules, namespace="", **more):
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    kind = "Role" if namespace else "ClusterRole"
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "rules": list(rules), **more}


def binding(name, ref, *subjects, namespace=""):
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    kind, _, role_name = ref.partition("/")
    return {
        "apiVersion": API,
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": kind, "name": role_name},
        "subjects": list(subjects),
    }


ACCOUNT = {"kind": "ServiceAccount", "name": "cart", "namespace": "shop"}
LIST_PODS = Attributes("list", "", "pods", "shop")


@pytest.mark.parametrize(
    ("rules", "asked", "want"),
    [
        ([], LIST_PODS, False),  # nothing is allowed that no rule names
        ([rule("list")], LIST_PODS, True),
        ([rule("get")], LIST_PODS, False),  # another verb
        ([rule("*")], LIST_PODS, True),
        ([rule("list", "apps")], LIST_PODS, False),  # another group
        ([rule("list", "*")], LIST_PODS, True),
        ([rule("list", resources="*")], LIST_PODS, True),
        ([rule("list", resources="services")], LIST_PODS, False),
        ([rule("get", resources="pods")], Attributes("get", "", "pods/log", "shop", "a"), False),
        ([rule("get", resources="pods/log")], Attributes("get", "", "pods/log", "shop"), True),
        ([rule("get", resources="*/log")], Attributes("get", "", "pods/log", "shop"), True),
        ([rule("get", resources="*")], Attributes("get", "", "pods/log", "shop"), True),
        ([rule(resourceNames=["a"])], Attributes("get", "", "pods", "shop", "a"), True),
        ([rule(resourceNames=["a"])], Attributes("get", "", "pods", "shop", "b"), False),
        ([rule("list", resourceNames=["a"])], LIST_PODS, False),  # a list has no name
        ([rule("get"), rule("list")], LIST_PODS, True),  # any rule is enough
        ([{"verbs": ["get"], "nonResourceURLs": ["/x/*"]}], Attributes("get", path="/x/y"), True),
        ([{"verbs": ["get"], "nonResourceURLs": ["/x"]}], Attributes("get", path="/x/y"), False),
        ([rule("*", "*", "*")], Attributes("get", path="/x"), False),  # paths are no resources
    ],
)
def test_rules(world, rules, asked, want):
    world.create(role("r", *rules))
    world.create(binding("b", "ClusterRole/r", ACCOUNT))
    assert Authorizer(world.cluster.store).decide(CART, asked).allowed is want


@pytest.mark.parametrize(
    ("objects", "namespace", "want"),
    [
        # A binding in a namespace gives a role of the cluster there, and only there.
        ([binding("b", "ClusterRole/r", ACCOUNT, namespace="shop")], "shop", True),
        ([binding("b", "ClusterRole/r", ACCOUNT, namespace="shop")], "bank", False),
        ([binding("b", "ClusterRole/r", ACCOUNT, namespace="shop")], "", False),
        ([binding("b", "ClusterRole/r", ACCOUNT)], "bank", True),
        ([binding("b", "ClusterRole/r", ACCOUNT)], "", True),
        # A role of a namespace is found by bindings of the same one.
        ([role("own", rule("list"), namespace="shop"),
          binding("b", "Role/own", ACCOUNT, namespace="shop")], "shop", True),
        ([role("own", rule("list"), namespace="bank"),
          binding("b", "Role/own", ACCOUNT, namespace="shop")], "shop", False),
        # Whom a binding names.
        ([binding("b", "ClusterRole/r", {"kind": "User", "name": CART.name})], "shop", True),
        ([binding("b", "ClusterRole/r", {"kind": "User", "name": "cart"})], "shop", False),
        ([binding("b", "ClusterRole/r",
                  {"kind": "Group", "name": "system:serviceaccounts:shop"})], "shop", True),
        ([binding("b", "ClusterRole/r",
                  {"kind": "Group", "name": "system:serviceaccounts:bank"})], "shop", False),
        ([binding("b", "ClusterRole/r", {**ACCOUNT, "namespace": "bank"})], "shop", False),
        ([binding("b", "ClusterRole/r", {**ACCOUNT, "name": "web"}, ACCOUNT)], "shop", True),
    ],
)  # fmt: skip
def test_bindings(world, objects, namespace, want):
    world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bank"}})
    for obj in (role("r", rule("list")), *objects):
        world.create(obj)
    asked = Attributes("list", "", "pods", namespace)
    assert Authorizer(world.cluster.store).decide(CART, asked).allowed is want


def test_a_superuser_needs_no_role_and_a_missing_role_is_named(world):
    authorizer = Authorizer(world.cluster.store)
    assert authorizer.decide(ROOT, LIST_PODS).allowed
    world.create(binding("b", "ClusterRole/gone", ACCOUNT))
    decision = authorizer.decide(CART, LIST_PODS)
    assert (decision.allowed, decision.reason) == (
        False, 'RBAC: clusterrole "gone" not found'
    )  # fmt: skip


def test_aggregated_roles_follow_their_parts(world):
    selector = {"clusterRoleSelectors": [{"matchLabels": {"part": "view"}}]}
    world.create(role("view-all", aggregationRule=selector))
    world.create(binding("b", "ClusterRole/view-all", ACCOUNT))
    authorizer = Authorizer(world.cluster.store)
    assert not authorizer.decide(CART, LIST_PODS).allowed
    part = role("part", rule("list"))
    part["metadata"]["labels"] = {"part": "view"}
    made = world.create(part)
    assert authorizer.decide(CART, LIST_PODS).allowed
    world.delete(made)
    assert not authorizer.decide(CART, LIST_PODS).allowed


# The same at the API.


@pytest.fixture
def call(world):
    caller = Caller(world)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "cart"}}
    world.create(account)
    path = "/api/v1/namespaces/shop/serviceaccounts/cart/token"
    status, made = caller("POST", path, {"spec": {}})
    assert status == 201
    caller.cart = made["status"]["token"]
    return caller


MAPS = "/api/v1/namespaces/shop/configmaps"


def config_map(**data):
    metadata = {"name": "size", "namespace": "shop"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


@pytest.mark.parametrize(
    ("verb", "method", "target", "body"),
    [
        ("get", "GET", f"{MAPS}/size", None),
        ("list", "GET", MAPS, None),
        ("watch", "GET", f"{MAPS}?watch=1", None),
        ("watch", "GET", f"{MAPS}/size?watch=1", None),
        ("create", "POST", MAPS, {"metadata": {"name": "new"}}),
        ("update", "PUT", f"{MAPS}/size", config_map(a="b")),
        ("patch", "PATCH", f"{MAPS}/size", {"data": {"a": "b"}}),
        ("delete", "DELETE", f"{MAPS}/size", None),
        ("deletecollection", "DELETE", MAPS, None),
    ],
)
def test_every_verb_needs_its_right(call, world, verb, method, target, body):
    world.create(config_map())
    headers = {"content_type": "application/merge-patch+json"} if method == "PATCH" else {}
    status, said = call(method, target, body, token=call.cart, **headers)
    assert (status, said["reason"]) == (403, "Forbidden")
    who = 'User "system:serviceaccount:shop:cart"'
    wanted = f'{who} cannot {verb} resource "configmaps" in API group "" in the namespace "shop"'
    assert wanted in said["message"]
    world.create(role("r", rule(verb, resources="configmaps"), namespace="shop"))
    world.create(binding("b", "Role/r", ACCOUNT, namespace="shop"))
    answer = call.raw(method, target, body, token=call.cart, **headers)
    assert getattr(answer, "status", 200) < 300


def test_what_is_missing_is_forbidden_before_it_is_missing(call):
    """Nobody learns names by asking for them."""
    assert call("GET", f"{PODS}/nothing", token=call.cart)[0] == 403
    assert call("GET", "/api/v1/nodes", token=call.cart)[1]["message"] == (
        'nodes is forbidden: User "system:serviceaccount:shop:cart" cannot list resource "nodes" '
        'in API group "" at the cluster scope'
    )


def test_an_apply_that_creates_needs_the_right_to_create(call, world):
    world.create(role("r", rule("patch", resources="services"), namespace="shop"))
    world.create(binding("b", "Role/r", ACCOUNT, namespace="shop"))
    target = "/api/v1/namespaces/shop/services/web?fieldManager=me"
    apply = {"content_type": "application/apply-patch+yaml"}
    status, said = call("PATCH", target, service(), token=call.cart, **apply)
    assert (status, "cannot create" in said["message"]) == (403, True)
    world.create(service())
    assert call("PATCH", target, service(), token=call.cart, **apply)[0] == 200


def test_a_status_is_a_right_of_its_own(call, world):
    world.create(pod())
    world.create(role("r", rule("patch", resources="pods/status"), namespace="shop"))
    world.create(binding("b", "Role/r", ACCOUNT, namespace="shop"))
    merge = {"content_type": "application/merge-patch+json"}
    body = {"status": {"phase": "Running"}}
    assert call("PATCH", f"{PODS}/web", body, token=call.cart, **merge)[0] == 403
    assert call("PATCH", f"{PODS}/web/status", body, token=call.cart, **merge)[0] == 200


ROLES = f"/apis/{API}/namespaces/shop/roles"
BINDINGS = f"/apis/{API}/namespaces/shop/rolebindings"


@pytest.mark.parametrize(
    ("own", "target", "body", "status"),
    [
        # A role or a binding may give what its author has, and no more.
        ("", ROLES, role("more", rule("get"), namespace="shop"), 201),
        ("", ROLES, role("more", rule("delete"), namespace="shop"), 403),
        ("", ROLES, role("more", rule("get", resources="*"), namespace="shop"), 403),
        ("", BINDINGS, binding("more", "ClusterRole/view", ACCOUNT, namespace="shop"), 403),
        # Unless that very thing is allowed.
        ("escalate", ROLES, role("more", rule("delete"), namespace="shop"), 201),
        ("bind", BINDINGS, binding("more", "ClusterRole/view", ACCOUNT, namespace="shop"), 201),
    ],
)
def test_nobody_gives_rights_that_they_lack(call, world, own, target, body, status):
    write = rule("create update", resources="roles rolebindings", groups=RBAC_GROUP)
    rules = [write, rule("get")]
    if own:
        rules.append(rule(own, resources="roles clusterroles", groups=RBAC_GROUP))
    world.create(role("r", *rules, namespace="shop"))
    world.create(binding("b", "Role/r", ACCOUNT, namespace="shop"))
    got, said = call("POST", target, body, token=call.cart)
    assert got == status, said
    if status == 403:
        assert "may not give rights that they do not have" in said["message"]


def test_an_administrator_may_speak_for_somebody_else(call, world):
    """kubectl --as."""
    account = {"impersonate_user": CART.name}
    assert call("GET", PODS, **account)[0] == 403
    world.create(binding("b", "ClusterRole/view", ACCOUNT, namespace="shop"))
    assert call("GET", PODS, **account)[0] == 200
    # Whoever may not is told so, and never mistaken for the other.
    status, said = call("GET", PODS, token=call.cart, impersonate_user="admin")
    assert (status, 'cannot impersonate resource "users"' in said["message"]) == (403, True)
    groups = {"impersonate_user": "jane", "impersonate_group": "a,system:masters"}
    assert call("GET", "/api/v1/nodes", **groups)[0] == 200


REVIEWS = "/apis/authorization.k8s.io/v1"


@pytest.mark.parametrize(
    ("attributes", "want"),
    [
        ({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "shop"}}, True),
        ({"resourceAttributes": {"verb": "list", "resource": "pods"}}, False),
        ({"resourceAttributes": {"verb": "get", "resource": "pods", "subresource": "log",
                                 "namespace": "shop"}}, True),
        ({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}, False),
    ],
)  # fmt: skip
def test_access_reviews_say_what_requests_would_be_told(call, world, attributes, want):
    world.create(binding("b", "ClusterRole/view", ACCOUNT, namespace="shop"))
    spec = {**attributes, "user": CART.name}
    status, said = call("POST", f"{REVIEWS}/subjectaccessreviews", {"spec": spec})
    assert (status, said["status"]["allowed"]) == (201, want)
    target = f"{REVIEWS}/selfsubjectaccessreviews"
    status, said = call("POST", target, {"spec": attributes}, token=call.cart)
    assert (status, said["status"]["allowed"]) == (201, want)
    target = f"{REVIEWS}/namespaces/shop/localsubjectaccessreviews"
    assert call("POST", target, {"spec": spec}, token=call.cart)[0] == 403


def test_a_rules_review_lists_them(call, world):
    world.create(role("r", rule("get"), namespace="shop"))
    world.create(binding("b", "Role/r", ACCOUNT, namespace="shop"))
    target = f"{REVIEWS}/selfsubjectrulesreviews"
    status, said = call("POST", target, {"spec": {"namespace": "shop"}}, token=call.cart)
    assert status == 201
    assert rule("get") in said["status"]["resourceRules"]
    everything = call("POST", target, {"spec": {"namespace": "shop"}})[1]["status"]
    assert everything["resourceRules"][0]["verbs"] == ["*"]


@pytest.mark.parametrize("spec", [{}, {"user": "x"}, {"resourceAttributes": {"verb": "get"}}])
def test_an_access_review_must_say_what_and_who(call, spec):
    assert call("POST", f"{REVIEWS}/subjectaccessreviews", {"spec": spec})[0] == 422
