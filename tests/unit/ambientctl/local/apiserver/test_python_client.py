"""The Python ``kubernetes`` client against the server."""

from __future__ import annotations

import threading

import pytest
import trio

from tests.unit.ambientctl.local.worlds import pod

kubernetes = pytest.importorskip("kubernetes")


async def test_list_watch_and_patch(running):
    running.server.apply_manifest("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")

    def session() -> list[str]:
        configuration = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(
            str(running.kubeconfig), client_configuration=configuration
        )
        with kubernetes.client.ApiClient(configuration) as client:
            core = kubernetes.client.CoreV1Api(client)
            core.create_namespaced_pod("shop", pod())
            listed = core.list_namespaced_pod("shop", label_selector="app in (web)")
            assert [item.metadata.name for item in listed.items] == ["web"]
            patched = core.patch_namespaced_pod("web", "shop", {"metadata": {"labels": {"a": "b"}}})
            assert patched.metadata.labels == {"app": "web", "a": "b"}
            seen: list[str] = []
            watch = kubernetes.watch.Watch()
            revision = listed.metadata.resource_version
            timer = threading.Timer(0.05, core.delete_namespaced_pod, ("web", "shop"))
            timer.start()
            for event in watch.stream(
                core.list_namespaced_pod, "shop", resource_version=revision, timeout_seconds=30
            ):
                seen.append(event["type"])
                if event["type"] == "DELETED":
                    watch.stop()
            timer.join()
            with pytest.raises(kubernetes.client.ApiException) as caught:
                core.read_namespaced_pod("web", "shop")
            assert caught.value.status == 404
        return seen

    seen = await trio.to_thread.run_sync(session)
    assert (seen[0], seen[-1]) == ("MODIFIED", "DELETED")
