"""What the manifests' roles allow and what they do not, and that both API servers say the same."""

import pytest

from ambient.kube.core.errors import KubeError
from ambient.kube.core.resources import (
    CONFIG_MAPS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    Resource,
)
from ambient.kube.io.client import KubeClient
from tests.kube.servers import ACCESS_REVIEWS, RBAC_GROUP, apply
from tests.kube.test_control_plane import until

CLUSTER_ROLES = Resource(RBAC_GROUP, "v1", "clusterroles", "ClusterRole", namespaced=False)
ROLE_BINDINGS = Resource(RBAC_GROUP, "v1", "rolebindings", "RoleBinding", namespaced=True)
ISTIOD = "system:serviceaccount:istio-system:istiod"
AGENT = "system:serviceaccount:istio-system:istio-cni"
TUNNEL = "system:serviceaccount:istio-system:ztunnel"


def asked(verb, resource, namespace="", group="", subresource="", name=""):
    return {
        "verb": verb,
        "resource": resource,
        "namespace": namespace,
        "group": group,
        "subresource": subresource,
        "name": name,
    }


@pytest.mark.parametrize(
    ("user", "attributes", "allowed"),
    [
        (ISTIOD, asked("watch", "pods"), True),
        (ISTIOD, asked("patch", "pods"), False),
        (ISTIOD, asked("get", "secrets", "istio-system"), True),
        (ISTIOD, asked("get", "secrets", "shop"), False),
        (ISTIOD, asked("list", "secrets"), False),
        (ISTIOD, asked("update", "secrets", "shop"), False),
        (ISTIOD, asked("delete", "secrets", "istio-system"), False),
        (ISTIOD, asked("update", "configmaps", "shop"), True),
        (ISTIOD, asked("patch", "httproutes", "shop", "gateway.networking.k8s.io", "status"), True),
        (ISTIOD, asked("patch", "httproutes", "shop", "gateway.networking.k8s.io"), False),
        (ISTIOD, asked("create", "pods", "shop"), False),
        (AGENT, asked("patch", "pods", "shop", subresource="status"), True),
        (AGENT, asked("patch", "pods", "shop"), False),
        (AGENT, asked("delete", "pods", "shop"), False),
        (AGENT, asked("get", "secrets", "istio-system"), False),
        (TUNNEL, asked("get", "pods", "shop"), False),
        (TUNNEL, asked("list", "services"), False),
    ],
)
async def test_the_programs_have_their_rights_and_no_more(cluster, user, attributes, allowed):
    review = {"metadata": {}, "spec": {"user": user, "resourceAttributes": attributes}}
    made = await cluster.kube.create(ACCESS_REVIEWS, review)
    assert made["status"]["allowed"] is allowed, made


async def test_refusals_are_worded_alike(cluster, tmp_path):
    kube = cluster.kube
    token = await cluster.token(kube, "istio-system", "ztunnel")
    async with KubeClient.connect(cluster.kubeconfig("ztunnel", token)) as tunnel:
        for res, namespace, text in (
            (PODS, "shop", 'pods is forbidden: User "system:serviceaccount:istio-system:ztunnel" '
             'cannot list resource "pods" in API group "" in the namespace "shop"'),
            (NODES, None, 'nodes is forbidden: User "system:serviceaccount:istio-system:ztunnel" '
             'cannot list resource "nodes" in API group "" at the cluster scope'),
        ):  # fmt: skip
            with pytest.raises(KubeError) as refused:
                await tunnel.list(res, namespace)
            assert refused.value.status == 403
            assert text in str(refused.value)
        with pytest.raises(KubeError, match='secrets "istio-ca-secret" is forbidden'):
            await tunnel.get(SECRETS, "istio-ca-secret", "istio-system")


async def test_rights_in_one_namespace_end_there(cluster, tmp_path):
    kube = cluster.kube
    await apply(kube, NAMESPACES, {"metadata": {"name": "bank"}})
    rules = [{"apiGroups": [""], "resources": ["configmaps", "services"], "verbs": ["list"]}]
    await apply(kube, CLUSTER_ROLES, {"metadata": {"name": "viewer"}, "rules": rules})
    binding = {
        "metadata": {"name": "viewers", "namespace": "shop"},
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": "viewer"},
        "subjects": [{"kind": "ServiceAccount", "name": "ztunnel", "namespace": "istio-system"}],
    }
    await apply(kube, ROLE_BINDINGS, binding)
    token = await cluster.token(kube, "istio-system", "ztunnel")
    async with KubeClient.connect(cluster.kubeconfig("viewer", token)) as viewer:

        async def allowed():  # the authorizer follows bindings with a delay
            try:
                await viewer.list(CONFIG_MAPS, "shop")
            except KubeError:
                return False
            return True

        await until(allowed)
        for refused in ((SECRETS, "shop"), (SERVICES, "bank")):
            with pytest.raises(KubeError, match="is forbidden"):
                await viewer.list(*refused)
        with pytest.raises(KubeError, match="cannot patch resource"):
            await apply(viewer, CONFIG_MAPS, {"metadata": {"name": "x", "namespace": "shop"}})
    await kube.delete(ROLE_BINDINGS, "viewers", "shop")
