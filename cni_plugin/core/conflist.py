"""Our place in the container runtime's CNI configuration; text in, text out.

The runtime takes the first valid file in byte order, as libcni does (hidden files too). We go last
into its chain of plugins, and out of every other file. A file with a single plugin becomes a list
and remembers in our entry what it was called, so that taking ourselves out restores it.

Or a file of our own holds a copy of the chain with us in it, ahead of the original, which stays as
it is: then a network plugin that rewrites its file after a reboot never runs without us.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ambient.api.errors import MeshError

PLUGIN_TYPE: Final = "ambient-cni"
_CONVERTED_FROM: Final = "converted_from"
_OWNED: Final = "owned_file"
"""In our entry: the whole file is ours."""
_SINGLE: Final = (".conf", ".json")
_EXTENSIONS: Final = (".conflist", *_SINGLE)
CILIUM_BACKUP: Final = ".cilium_bak"
"""Cilium renames others' files so, and puts the names back when it is uninstalled."""
_DEFAULT_NAME: Final = "k8s-pod-network"
"""Name of the network where a single plugin's file has none; Istio's choice."""
_DEFAULT_VERSION: Final = "0.3.1"

Conflist = dict[str, Any]


class NoConflistError(MeshError):
    """The folder has no configuration that a runtime would take."""


class Edit(NamedTuple):
    """Files to write (name to text) and then to delete; both empty when nothing changes."""

    write: Mapping[str, str]
    delete: tuple[str, ...] = ()


NO_EDIT: Final = Edit({})


def insert(files: Mapping[str, bytes], entry: Mapping[str, Any]) -> Edit:
    """Chain ``entry`` last into the active configuration. Raises NoConflistError."""
    owned = _owned(files)
    files = {name: raw for name, raw in files.items() if name not in owned}
    name, conflist = active(files)
    stem, _, _ = name.rpartition(".")
    target, ours = name, {"type": PLUGIN_TYPE, **entry}
    if name.endswith(_SINGLE):
        target, ours[_CONVERTED_FROM] = f"{stem}.conflist", name
    else:
        present = [plugin for plugin in conflist["plugins"] if plugin["type"] == PLUGIN_TYPE]
        if present and _CONVERTED_FROM in present[0]:
            ours[_CONVERTED_FROM] = present[0][_CONVERTED_FROM]
    wanted = {**conflist, "plugins": [*_connecting(name, conflist), ours]}
    elsewhere = remove({other: raw for other, raw in files.items() if other not in (name, target)})
    write = {**elsewhere.write}
    if wanted != conflist or target != name:
        write[target] = _text(wanted)
    converted = (name,) if target != name else ()
    return Edit(write, (*converted, *elsewhere.delete, *owned))


def insert_owned(files: Mapping[str, bytes], entry: Mapping[str, Any], name: str) -> Edit:
    """Put a copy of the active chain, with ``entry`` last, into the file ``name``.

    Raises NoConflistError where there is neither a chain nor a copy yet, MeshError where the file
    would not come first or is somebody else's.
    """
    owned = _owned(files)
    if name in files and name not in owned:
        raise MeshError(
            f"{name} exists and was not made by the mesh",
            hint="choose another name in ISTIO_OWNED_CNI_CONFIG_FILENAME",
        )
    others = {other: raw for other, raw in files.items() if other not in owned}
    try:
        source, conflist = active(others)
    except NoConflistError:
        if name in owned:  # the network plugin comes later; until then its last chain is as good
            return NO_EDIT
        raise
    if name.encode() >= source.encode():
        raise MeshError(
            f"{name} would come after {source}, which the runtime would then use",
            hint="ISTIO_OWNED_CNI_CONFIG_FILENAME must come first in byte order",
        )
    ours = {"type": PLUGIN_TYPE, **entry, _OWNED: True}
    wanted = {**conflist, "plugins": [*_connecting(source, conflist), ours]}
    elsewhere = remove(others)
    write = {**elsewhere.write}
    if name not in files or _parse(name, files[name]) != wanted:
        write[name] = _text(wanted)
    return Edit(write, (*elsewhere.delete, *(other for other in owned if other != name)))


def _connecting(name: str, conflist: Conflist) -> list[dict[str, Any]]:
    others = [plugin for plugin in conflist["plugins"] if plugin["type"] != PLUGIN_TYPE]
    if not others:
        raise NoConflistError(
            f"{name} has no plugin that connects pods",
            hint="install a network plugin (flannel, calico, bridge, ...) first",
        )
    return others


def _owned(files: Mapping[str, bytes]) -> list[str]:
    """Files that are ours as a whole."""
    found = []
    for name in sorted(files):
        parsed = _parse(name, files[name]) if name.endswith(".conflist") else ""
        if not isinstance(parsed, str) and any(
            plugin["type"] == PLUGIN_TYPE and plugin.get(_OWNED) for plugin in parsed["plugins"]
        ):
            found.append(name)
    return found


def remove(files: Mapping[str, bytes]) -> Edit:
    """Take ourselves out of every configuration; the rest stays as it is."""
    write: dict[str, str] = {}
    delete: list[str] = []
    for name in sorted(files):
        plain = name.removesuffix(CILIUM_BACKUP)
        conflist = _parse(plain, files[name])
        if isinstance(conflist, str) or not plain.endswith(".conflist"):
            continue
        ours = [plugin for plugin in conflist["plugins"] if plugin["type"] == PLUGIN_TYPE]
        others = [plugin for plugin in conflist["plugins"] if plugin["type"] != PLUGIN_TYPE]
        if not ours:
            continue
        if ours[0].get(_OWNED):
            delete.append(name)
            continue
        origin = ours[0].get(_CONVERTED_FROM)
        if plain == name and isinstance(origin, str) and len(others) == 1 and origin not in files:
            frame: Conflist = {
                key: conflist[key] for key in ("cniVersion", "name") if key in conflist
            }
            write[origin] = _text({**frame, **others[0]})
            delete.append(name)
        else:
            write[name] = _text({**conflist, "plugins": others})
    return Edit(write, tuple(delete))


def active(files: Mapping[str, bytes]) -> tuple[str, Conflist]:
    """The configuration that runtimes take: the first valid one. Raises NoConflistError."""
    reasons = []
    for name in sorted(files, key=str.encode):
        if not name.endswith(_EXTENSIONS):
            continue
        parsed = _parse(name, files[name])
        if not isinstance(parsed, str):
            return name, parsed
        reasons.append(f"{name}: {parsed}")
    detail = "; ".join(reasons) or "it has no .conflist or .conf file"
    raise NoConflistError(
        f"no valid CNI configuration yet ({detail})",
        hint="install a network plugin (flannel, calico, bridge, ...) first",
    )


def _parse(name: str, raw: bytes) -> Conflist | str:
    """A list of plugins, also of a single plugin's file; or why it is none, as runtimes see it."""
    try:
        data = json.loads(raw.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(data, dict):
        return "not a JSON object"
    if name.endswith(_SINGLE) and "plugins" not in data:
        if not isinstance(data.get("type"), str):
            return "no plugin type"
        frame = {"cniVersion": _DEFAULT_VERSION, "name": _DEFAULT_NAME}
        frame |= {key: data[key] for key in frame if data.get(key)}
        plugin = {key: value for key, value in data.items() if key not in frame}
        return {**frame, "plugins": [plugin]}
    if not name.endswith(".conflist"):
        return "a list of plugins in a file for one plugin"
    plugins = data.get("plugins")
    if not data.get("name") or not isinstance(plugins, list) or not plugins:
        return "no name or no plugins"
    if not all(isinstance(data.get(key, ""), str) for key in ("name", "cniVersion")):
        return "a name or a version that is no text"
    types = [plugin.get("type") if isinstance(plugin, dict) else None for plugin in plugins]
    if not all(isinstance(kind, str) and kind for kind in types):
        return "a plugin without a type"
    return data


def _refuse(constant: str) -> None:
    """Python reads NaN and the like; the runtime does not, and passes over the file."""
    raise ValueError(constant)


def _text(conflist: Conflist) -> str:
    return json.dumps(conflist, indent=2) + "\n"
