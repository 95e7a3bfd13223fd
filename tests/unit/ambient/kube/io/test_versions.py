"""A kind is found in whichever version the cluster's definitions serve it."""

import copy

import pytest
import trio

from ambient.kube.core.errors import NotFound
from ambient.kube.core.resources import CUSTOM_RESOURCE_DEFINITIONS, NAMESPACES, TCP_ROUTES
from ambient.kube.core.watch import EventKind
from ambient.kube.io.watch import follow
from tests.kube.servers import apply, documents, embedded

OLD, NEW = "v1alpha2", "v1"
ROUTE = {"metadata": {"name": "r", "namespace": "default"}, "spec": {"rules": []}}


@pytest.fixture
async def kube(tmp_path):
    async with embedded(tmp_path) as server, server.admin() as kube:
        await apply(kube, NAMESPACES, {"metadata": {"name": "default"}})
        yield kube


async def define(kube, *served):
    """As one release of Gateway API or another does; the last version stores."""
    (definition,) = documents("manifests/crds/tcproutes.yaml")
    definition = copy.deepcopy(definition)
    for version in definition["spec"]["versions"]:
        version["served"] = version["name"] in served
        version["storage"] = version["name"] == served[-1]
    await apply(kube, CUSTOM_RESOURCE_DEFINITIONS, definition)


async def test_no_version_at_all_is_absent(kube):
    with pytest.raises(NotFound):
        await kube.list(TCP_ROUTES)


@pytest.mark.parametrize(
    ("served", "read"), [((OLD,), OLD), ((NEW,), NEW), ((OLD, NEW), NEW)], ids=str
)
async def test_reading_and_writing_in_that_version(kube, served, read):
    await define(kube, *served)
    assert await kube.list(TCP_ROUTES) == []
    assert kube.served(TCP_ROUTES).version == read
    made = await kube.create(TCP_ROUTES, ROUTE)
    assert made["apiVersion"].endswith(f"/{read}")
    status = {"status": {"parents": []}}
    await kube.patch(TCP_ROUTES, "r", status, namespace="default", subresource="status")
    await kube.patch(TCP_ROUTES, "r", ROUTE, namespace="default", kind="apply", force=True)
    assert (await kube.get(TCP_ROUTES, "r", "default"))["metadata"]["name"] == "r"
    await kube.replace(TCP_ROUTES, made | {"metadata": ROUTE["metadata"]})
    await kube.delete(TCP_ROUTES, "r", "default")
    assert await kube.list(TCP_ROUTES) == []


async def test_definitions_that_are_upgraded_under_a_follower(kube):
    """Gateway API 1.6 stopped to serve what 1.5 had."""
    await define(kube, OLD)
    await kube.list(TCP_ROUTES)
    await kube.create(TCP_ROUTES, ROUTE)
    with trio.fail_after(30):
        async with follow(kube, TCP_ROUTES) as events:
            assert (await anext(events)).object["metadata"]["name"] == "r"
            assert (await anext(events)).kind is EventKind.SYNCED
            await define(kube, NEW)
            assert len(await kube.list(TCP_ROUTES)) == 1
            second = {**ROUTE, "metadata": {"name": "s", "namespace": "default"}}
            await kube.create(TCP_ROUTES, second)
            async for event in events:
                if event.object.get("metadata", {}).get("name") == "s":
                    break
            assert kube.served(TCP_ROUTES).version == NEW
