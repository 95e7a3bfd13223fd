"""A pod's volumes as folders, and their mounts.

Volumes with content (projected, configMap, secret, downwardAPI) are written as the kubelet writes
them: the files are symbolic links through ``..data``, a link to a folder of one generation, so that
a reader sees all of the old content or all of the new.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.resources import CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS, KubeObject, Resource
from ambientctl.local.kube_api import KubeApi, Objects
from ambientctl.local.kubelet.environment import object_data
from ambientctl.local.kubelet.fields import field_value, resource_value
from ambientctl.local.layout import PROJECT, RUN, NodeLayout
from ambientctl.local.runtime import Mount

TOKEN_LIFETIME_S: Final = 3607
"""What admission asks for a pod's own token (Kubernetes: 3607 s, told apart from 3600 by eye)."""
TOKEN_RENEW_AT: Final = 0.8
"""Share of its lifetime after which a token is replaced (kubelet's token manager)."""
ACCOUNT_FOLDER: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
DEFAULT_MODE: Final = 0o644
PROGRAMS: Final = tuple(sorted({sys.prefix, sys.base_prefix, str(PROJECT)}))
"""What a container's image would have: the interpreters and the mesh."""


class VolumeNotReady(MeshError):  # noqa: N818 - a state, as Kubernetes words it
    """Something the volume shows is not there yet."""


class _Token(NamedTuple):
    text: bytes
    renew_at: float
    """time.monotonic()"""


class Volumes:
    """The volumes of one pod."""

    def __init__(self, pod: KubeObject, node: NodeLayout, api: KubeApi, objects: Objects) -> None:
        self._pod = pod
        self._node = node
        self._api = api
        self._objects = objects
        self.folder: Final = RUN / "pods" / pod["metadata"]["uid"]
        self._tokens: dict[tuple[str, int], _Token] = {}
        self._written: dict[str, dict[str, bytes]] = {}
        self._volumes = {volume["name"]: volume for volume in _with_account(pod)}

    async def prepare(self, status: Mapping[str, Any]) -> None:
        """Make or refresh every volume. Raises VolumeNotReady, KubeError."""
        for name, volume in self._volumes.items():
            if "hostPath" in volume:
                _prepare_host_path(self._node, volume["hostPath"])
            elif "emptyDir" in volume:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            else:
                content = await self._content(volume, status)
                if self._written.get(name) != content:
                    write_generation(self.folder / name, content)
                    self._written[name] = content

    async def keep_fresh(self, status: Mapping[str, Any]) -> None:
        """Refresh content for ever: at each change of a referred object, and tokens in time."""
        while True:
            changed = self._objects.changed
            with contextlib.suppress(MeshError):  # where an object is gone, its files stay
                await self.prepare(status)
            wait_s = min((token.renew_at for token in self._tokens.values()), default=float("inf"))
            with trio.move_on_after(max(wait_s - time.monotonic(), 1.0)):
                await changed.wait()

    def mounts(self, container: Mapping[str, Any]) -> list[Mount]:
        """The container's volume mounts. Raises VolumeNotReady for an unknown volume."""
        wanted = list(container.get("volumeMounts") or [])
        if "kube-api-access" in self._volumes and not any(
            mount["mountPath"] == ACCOUNT_FOLDER for mount in wanted
        ):
            wanted.append(
                {"name": "kube-api-access", "mountPath": ACCOUNT_FOLDER, "readOnly": True}
            )
        return arranged([self._mount(mount) for mount in wanted], PROGRAMS)

    def remove(self) -> None:
        """Forget everything on disk (it is a tmpfs)."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _mount(self, mount: Mapping[str, Any]) -> Mount:
        volume = self._volumes.get(mount["name"])
        if volume is None:
            raise VolumeNotReady(f"volumeMount names volume {mount['name']!r}, which is absent")
        if "hostPath" in volume:
            source = self._node.host_path(volume["hostPath"]["path"])
        else:
            source = self.folder / mount["name"]
        if mount.get("subPath"):
            source = source / mount["subPath"]
            if not source.exists():
                source.mkdir(parents=True)
        return Mount(str(source), mount["mountPath"], bool(mount.get("readOnly")))

    async def _content(
        self, volume: Mapping[str, Any], status: Mapping[str, Any]
    ) -> dict[str, bytes]:
        if "projected" not in volume:
            return await self._source(volume, status)
        files: dict[str, bytes] = {}
        for source in volume["projected"].get("sources") or []:
            files |= await self._source(source, status)
        return files

    async def _source(
        self, source: Mapping[str, Any], status: Mapping[str, Any]
    ) -> dict[str, bytes]:
        if "serviceAccountToken" in source:
            wanted = source["serviceAccountToken"]
            return {wanted["path"]: await self._token(wanted)}
        if "configMap" in source:
            return self._keys(CONFIG_MAPS, source["configMap"], source["configMap"].get("name"))
        if "secret" in source:
            named = source["secret"].get("name") or source["secret"].get("secretName")
            return self._keys(SECRETS, source["secret"], named)
        if "downwardAPI" in source:
            return {
                item["path"]: self._field(item, status).encode()
                for item in source["downwardAPI"].get("items") or []
            }
        kind = next((key for key in source if key != "name"), "nothing")
        raise VolumeNotReady(
            f"volume of kind {kind!r} is not supported",
            hint="the local mesh knows projected, configMap, secret, downwardAPI, emptyDir, "
            "hostPath",
        )

    def _field(self, item: Mapping[str, Any], status: Mapping[str, Any]) -> str:
        if "fieldRef" in item:
            return field_value(self._pod, status, item["fieldRef"]["fieldPath"])
        reference = item["resourceFieldRef"]
        for container in self._pod["spec"]["containers"]:
            if container["name"] == reference.get("containerName"):
                return resource_value(container, reference["resource"])
        raise VolumeNotReady(f"downwardAPI names no container for {item['path']!r}")

    def _keys(
        self, kind: Resource, source: Mapping[str, Any], name: str | None
    ) -> dict[str, bytes]:
        namespace = self._pod["metadata"]["namespace"]
        found = self._objects.get(kind, namespace, name or "")
        optional = bool(source.get("optional"))
        if found is None:
            if optional:
                return {}
            raise VolumeNotReady(f"{kind.kind} {namespace}/{name} does not exist")
        data = object_data(found)
        items = source.get("items")
        if not items:
            return data
        files = {}
        for item in items:
            if item["key"] in data:
                files[item["path"]] = data[item["key"]]
            elif not optional:
                raise VolumeNotReady(f"{kind.kind} {namespace}/{name} has no key {item['key']!r}")
        return files

    async def _token(self, wanted: Mapping[str, Any]) -> bytes:
        audience = wanted.get("audience", "")
        lifetime_s = wanted.get("expirationSeconds") or 3600
        held = self._tokens.get((audience, lifetime_s))
        if held is not None and time.monotonic() < held.renew_at:
            return held.text
        metadata = self._pod["metadata"]
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {
                "name": self._pod["spec"].get("serviceAccountName") or "default",
                "namespace": metadata["namespace"],
            },
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": lifetime_s,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                },
            },
        }
        answer = await self._api.create(SERVICE_ACCOUNTS, request, subresource="token")
        text = answer["status"]["token"].encode()
        renew_at = time.monotonic() + lifetime_s * TOKEN_RENEW_AT
        self._tokens[audience, lifetime_s] = _Token(text, renew_at)
        return bytes(text)


def _with_account(pod: KubeObject) -> list[dict[str, Any]]:
    """The pod's volumes, with the one that admission adds for the account's token.

    An API server without that admission step leaves it to us; one with it has named it already.
    """
    volumes: list[dict[str, Any]] = list(pod["spec"].get("volumes") or [])
    mounted = any(
        mount["mountPath"] == ACCOUNT_FOLDER
        for container in pod["spec"]["containers"]
        for mount in container.get("volumeMounts") or []
    )
    if mounted or pod["spec"].get("automountServiceAccountToken") is False:
        return volumes
    token = {"path": "token", "expirationSeconds": TOKEN_LIFETIME_S}
    roots = {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    place = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": token},
        {"configMap": roots},
        {"downwardAPI": {"items": [place]}},
    ]
    return [*volumes, {"name": "kube-api-access", "projected": {"sources": sources}}]


def arranged(mounts: Sequence[Mount], programs: Iterable[str]) -> list[Mount]:
    """Outer folders before those inside them, and no volume over what an image would bring along.

    A checkout below ``/tmp`` would otherwise be hidden by a volume that is mounted there.
    """
    kept = [
        Mount(folder, folder)
        for folder in programs
        if any(Path(folder).is_relative_to(mount.target) for mount in mounts)
    ]
    return sorted([*mounts, *kept], key=lambda mount: mount.target.rstrip("/").count("/"))


def _prepare_host_path(node: NodeLayout, volume: Mapping[str, Any]) -> None:
    path, kind = node.host_path(volume["path"]), volume.get("type", "")
    if kind in ("", "DirectoryOrCreate") and not path.exists():
        path.mkdir(parents=True)
    elif kind == "FileOrCreate" and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    elif not path.exists():
        raise VolumeNotReady(f"hostPath {volume['path']} ({kind}) does not exist on {node.name}")


_generations = count(1)


def write_generation(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace the folder's content at once (rename of the ``..data`` link)."""
    folder.mkdir(parents=True, exist_ok=True)
    generation = folder / f"..{next(_generations)}"
    for name, data in files.items():
        target = generation / os.path.normpath("/" + name).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(DEFAULT_MODE)
    generation.mkdir(exist_ok=True)
    link = folder / "..data"
    old = os.readlink(link) if link.is_symlink() else None
    (folder / "..data_tmp").symlink_to(generation.name)
    os.replace(folder / "..data_tmp", link)
    tops = {os.path.normpath("/" + name).lstrip("/").split("/", 1)[0] for name in files}
    for top in tops:
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(Path("..data") / top)
    for entry in folder.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
    if old:
        shutil.rmtree(folder / old, ignore_errors=True)
