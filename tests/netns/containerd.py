"""A real containerd with runc, in folders of its own, and the calls by which a kubelet uses it.

Debian's packages ``containerd``, ``runc`` and ``busybox-static``; the one image is made here.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import trio

from tests.netns.cni_world import CNI_BIN, Pod, World, until

IMAGE = "mesh.invalid/busybox:1"
BUSYBOX = Path("/usr/bin/busybox")
_PROGRAMS = ("containerd", "ctr", "runc")
_PLUGIN = 'plugins."io.containerd.grpc.v1.cri"'


def missing() -> str:
    """Why there can be no container runtime here; empty where there can."""
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if not BUSYBOX.exists():
        absent.append("busybox")
    if absent:
        return (
            f"{', '.join(absent)} not found: apt-get install --no-install-recommends containerd "
            "runc busybox-static"
        )
    # its CNI library keeps results in /var/lib/cni, wherever the rest is
    return "" if os.access("/var/lib", os.W_OK) else "a container runtime needs root"


class Runtime:
    """What a kubelet asks of it (CRI, k8s.io/cri-api runtime/v1)."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")

    def close(self) -> None:
        self._channel.close()

    async def run(self, pod: Pod) -> str:
        """A pod's sandbox, with its network; its id. Raises grpc.RpcError."""
        return _text(await self._call("RunPodSandbox", _field(1, _config(pod))))

    async def start(self, pod: Pod, sandbox: str, *command: str) -> str:
        """A container in it; its id."""
        config = _field(1, _field(1, "app")) + _field(2, _field(1, IMAGE))
        config += b"".join(_field(3, word) for word in command)
        request = _field(1, sandbox) + _field(2, config) + _field(3, _config(pod))
        container = _text(await self._call("CreateContainer", request))
        await self._call("StartContainer", _field(1, container))
        return container

    async def execute(self, container: str, *command: str) -> str:
        """Output of a command that is run in a container."""
        request = _field(1, container) + b"".join(_field(2, word) for word in command)
        return _text(await self._call("ExecSync", request))

    async def remove(self, sandbox: str) -> None:
        """Stop and forget everything of a pod."""
        for call in ("StopPodSandbox", "RemovePodSandbox"):
            await self._call(call, _field(1, sandbox))

    async def _call(self, name: str, request: bytes) -> bytes:
        method = self._channel.unary_unary(f"/runtime.v1.RuntimeService/{name}")
        answer: bytes = await trio.to_thread.run_sync(lambda: method(request, timeout=30))
        return answer


def _config(pod: Pod) -> bytes:
    metadata = _field(1, pod.name) + _field(2, pod.uid) + _field(3, pod.namespace)
    return _field(1, metadata) + _field(2, pod.name) + _field(8, b"")


def _field(number: int, value: str | bytes) -> bytes:
    """A text or message of protobuf, shorter than 16 KiB."""
    data = value.encode() if isinstance(value, str) else value
    low, high = len(data) & 0x7F, len(data) >> 7
    size = bytes([low | 0x80, high]) if high else bytes([low])
    return bytes([number << 3 | 2]) + size + data


def _text(message: bytes) -> str:
    """The first field of an answer, which is a text; empty where it is left out."""
    if not message.startswith(b"\x0a"):
        return ""
    size, at = message[1], 2
    if size & 0x80:
        size, at = size & 0x7F | message[2] << 7, 3
    return message[at : at + size].decode()


@asynccontextmanager
async def containerd(world: World) -> AsyncIterator[Runtime]:
    """Serves the world's CNI folders until the block ends."""
    folder = world.folder / "containerd"
    folder.mkdir()
    for plugin in ("loopback", "ptp", "host-local"):
        (world.bin_dir / plugin).symlink_to(CNI_BIN / plugin)
    socket, config = folder / "containerd.sock", folder / "config.toml"
    config.write_text(_settings(world, folder, socket))
    with (folder / "log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            ["containerd", "--config", str(config)], stdout=log, stderr=log
        )
    try:
        await until(socket.exists)
        archive = folder / "image.tar"
        archive.write_bytes(_image())
        load = ("image", "import", "--snapshotter", "native", str(archive))
        await trio.run_process(
            ["ctr", "-a", str(socket), "-n", "k8s.io", *load], capture_stdout=True
        )
        runtime = Runtime(socket)
        try:
            yield runtime
        finally:
            runtime.close()
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


def _settings(world: World, folder: Path, socket: Path) -> str:
    return f"""
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{socket}"
[ttrpc]
address = "{folder}/ttrpc.sock"
[{_PLUGIN}]
sandbox_image = "{IMAGE}"
disable_apparmor = true
restrict_oom_score_adj = true
disable_tcp_service = true
stream_server_address = "127.0.0.1"
[{_PLUGIN}.containerd]
snapshotter = "native"
[{_PLUGIN}.cni]
bin_dir = "{world.bin_dir}"
conf_dir = "{world.net_dir}"
"""


def _image() -> bytes:
    """An OCI image with nothing but busybox, which waits where no other command is given."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        files.add(BUSYBOX.resolve(), "bin/busybox")
    blobs = {}

    def blob(kind: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

    top = blob("layer.v1.tar", layer.getvalue())
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Cmd": ["/bin/busybox", "sleep", "3600"]},
        "rootfs": {"type": "layers", "diff_ids": [top["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "config": blob("config.v1+json", json.dumps(config).encode()),
        "layers": [top],
    }
    described = blob("manifest.v1+json", json.dumps(manifest).encode())
    described["annotations"] = {"io.containerd.image.name": IMAGE}
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [described]}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as files:
        for name, data in blobs.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            files.addfile(info, io.BytesIO(data))
    return archive.getvalue()


def _architecture() -> str:
    """As Go calls it."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True)
    return names.get(machine.stdout.strip(), machine.stdout.strip())
