"""The plugin under a real containerd: a kubelet's calls, a sandbox by runc, and the mesh."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import grpc
import pytest
import trio

from ambient.net.core import wire
from ambient.net.io.netns import Netns
from tests.fakes.tunnel import FakeTunnel
from tests.netns import containerd
from tests.netns.cni_world import Pod, World, needs_cni, node, until
from tests.netns.test_enrol import APP_PORT, Echo

MISSING = containerd.missing()
pytestmark = [
    pytest.mark.netns,
    needs_cni,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


def declared(world: World, name: str) -> Pod:
    """A pod that the API server knows, and no runtime yet."""
    pod = Pod(world, name, "shop", str(uuid.uuid4()))
    world.declare(pod)
    return pod


def networks() -> set[str]:
    """Network namespaces that the runtime has made."""
    return set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()


async def get(host: str) -> bytes:
    """One request to the application in the pod."""
    with trio.fail_after(10):
        async with await trio.open_tcp_stream(host, APP_PORT) as stream:
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join([part async for part in stream])


async def test_a_container_of_the_mesh_lives_and_goes_without_a_trace(tmp_path: Path) -> None:
    async with node(tmp_path, deadline_s=90) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        tunnel = FakeTunnel(world.zds)
        async with world.agent(), containerd.containerd(world) as runtime:
            before = networks()
            pod = declared(world, "web")
            with pytest.raises(grpc.RpcError, match="no ztunnel is connected on this node"):
                await runtime.run(pod)
            assert networks() == before, "what failed has been taken down"

            await nursery.start(tunnel.run)
            sandbox = await runtime.run(pod)
            (made,) = networks() - before
            pod.path = f"/run/netns/{made}"
            pod.netns = Netns.open(pod.path)
            pod.ip = next(iter(world.leases()))
            world.declare(pod)
            assert wire.Add(pod.uid, "web", "shop", "web-sa") in tunnel.heard
            assert pod.captured() == {15001, 15006}
            await until(lambda: pod.annotation == "enabled")

            Echo(nursery, None)
            serve = ("/bin/busybox", "httpd", "-f", "-p", str(APP_PORT))
            app = await runtime.start(pod, sandbox, *serve)
            await until_serving(pod)
            assert (await get(pod.ip)).startswith(b"HTTP/1.")
            assert (15006, f"{pod.ip}:{APP_PORT}") in tunnel.captured
            say = f"echo hello | /bin/busybox nc -w 5 10.244.1.1 {APP_PORT}"
            assert "hello" in await runtime.execute(app, "/bin/busybox", "sh", "-c", say)
            assert (15001, f"10.244.1.1:{APP_PORT}") in tunnel.captured

            pod.netns.close()
            await runtime.remove(sandbox)
            world.api.remove("/api/v1/pods", pod.namespace, pod.name)
            await tunnel.until(wire.Del(pod.uid))
            assert networks() == before
            assert not world.leases()
            assert not os.listdir(f"{world.run_dir}/pods")
        nursery.cancel_scope.cancel()


async def until_serving(pod: Pod) -> None:
    """The kernel lists the application's listener."""

    def listens() -> bool:
        lines = pod.netns.run(Path("/proc/thread-self/net/tcp6").read_text)
        return f":{APP_PORT:04X} " in lines

    await until(listens)
