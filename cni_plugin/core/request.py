"""What a container runtime asks: the CNI environment and the configuration on standard input.

CNI specification 1.1.0, section 2. Standard library only and little of it: a process is started
for every pod.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from cni_plugin.core.reply import CniError, Code

SUPPORTED_VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Versions whose results have ``ips`` and ``interfaces`` and can be passed on as they came."""
LATEST_VERSION: Final = "1.1.0"
DEFAULT_RUN_DIR: Final = "/var/run/istio-cni"

_NEEDED: Final = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
    "VERSION": (),
}
_SINCE: Final = {"CHECK": (0, 4, 0), "GC": (1, 1, 0), "STATUS": (1, 1, 0)}
_MAX_INTERFACE_NAME: Final = 15  # IFNAMSIZ without its NUL


class Configuration(NamedTuple):
    """Our entry in the conflist, as the runtime hands it over."""

    version: str
    name: str
    run_dir: str
    exclude_namespaces: frozenset[str]
    """Pods of these are never asked about: they must start with or without the mesh."""
    system_namespace: str
    """The mesh's own pods; they start while the agent is away."""
    start_without_agent: bool
    """``if_agent_absent: start``: pods start outside the mesh rather than wait for the agent."""
    previous_result: dict[str, Any] | None
    valid_containers: frozenset[str] | None
    """Only for GC: the containers that still exist; None where the runtime does not say."""


class Request(NamedTuple):
    """One call of the plugin. Texts are empty where the runtime gave nothing."""

    command: str
    container_id: str
    netns: str
    interface: str
    pod_name: str
    pod_namespace: str
    pod_uid: str
    configuration: Configuration

    @property
    def ips(self) -> list[str]:
        """The pod's addresses, without prefix lengths, from the previous result."""
        previous = self.configuration.previous_result or {}
        return [str(ip["address"]).partition("/")[0] for ip in previous.get("ips") or ()]

    @property
    def pod(self) -> str:
        """The pod as people write it."""
        return f"{self.pod_namespace}/{self.pod_name}"


def parse(env: Mapping[str, str], raw: bytes) -> Request:
    """Read a call. Raises CniError with the code that the specification has for the fault."""
    command = env.get("CNI_COMMAND", "")
    if command not in _NEEDED:
        raise CniError(Code.BAD_ENVIRONMENT, f"CNI_COMMAND {command!r} is not known")
    configuration = _configuration(raw)
    if command != "VERSION":
        _check_version(command, configuration.version)
    missing = [name for name in _NEEDED[command] if not env.get(name)]
    if missing:
        raise CniError(Code.BAD_ENVIRONMENT, f"missing environment: {', '.join(missing)}")
    arguments = _arguments(env.get("CNI_ARGS", ""))
    request = Request(
        command,
        env.get("CNI_CONTAINERID", ""),
        env.get("CNI_NETNS", ""),
        env.get("CNI_IFNAME", ""),
        arguments.get("K8S_POD_NAME", ""),
        arguments.get("K8S_POD_NAMESPACE", ""),
        arguments.get("K8S_POD_UID", ""),
        configuration,
    )
    if "CNI_CONTAINERID" in _NEEDED[command]:
        _check_names(request)
    return request


def _configuration(raw: bytes) -> Configuration:
    try:
        conf = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CniError(Code.UNDECODABLE, f"network configuration is not JSON: {error}") from None
    if not isinstance(conf, dict):
        raise CniError(Code.UNDECODABLE, "network configuration is not a JSON object")
    absent = conf.get("if_agent_absent", "fail")
    if absent not in ("fail", "start"):
        raise CniError(
            Code.BAD_CONFIGURATION, f"if_agent_absent is {absent!r}, neither 'fail' nor 'start'"
        )
    excluded = conf.get("exclude_namespaces") or []
    if not isinstance(excluded, list) or not all(isinstance(name, str) for name in excluded):
        raise CniError(Code.BAD_CONFIGURATION, "exclude_namespaces is not a list of names")
    return Configuration(
        version=_text(conf, "cniVersion", "0.3.0"),
        name=_text(conf, "name", ""),
        run_dir=_text(conf, "cni_agent_run_dir", DEFAULT_RUN_DIR),
        exclude_namespaces=frozenset(excluded),
        system_namespace=_text(conf, "system_namespace", "istio-system"),
        start_without_agent=absent == "start",
        previous_result=_previous_result(conf),
        valid_containers=_valid_containers(conf),
    )


def _text(conf: dict[str, Any], key: str, default: str) -> str:
    value = conf.get(key, default)
    if not isinstance(value, str):
        raise CniError(Code.BAD_CONFIGURATION, f"{key} is not a text")
    return value or default


def _previous_result(conf: dict[str, Any]) -> dict[str, Any] | None:
    previous = conf.get("prevResult")
    if previous is None:
        return None
    if not isinstance(previous, dict):
        raise CniError(Code.UNDECODABLE, "prevResult is not a JSON object")
    ips = previous.get("ips")
    if not isinstance(ips, list | None) or not all(
        isinstance(ip, dict) and isinstance(ip.get("address"), str) for ip in ips or ()
    ):
        raise CniError(Code.UNDECODABLE, "prevResult.ips is not a list of addresses")
    return previous


def _valid_containers(conf: dict[str, Any]) -> frozenset[str] | None:
    # The other name is of an earlier draft of the specification; libcni writes both.
    keys = ("cni.dev/valid-attachments", "cni.dev/attachments")
    attachments = next((conf[key] for key in keys if conf.get(key) is not None), None)
    if attachments is None:
        return None
    if not isinstance(attachments, list) or not all(isinstance(one, dict) for one in attachments):
        raise CniError(Code.BAD_CONFIGURATION, "cni.dev/valid-attachments is not a list of objects")
    return frozenset(str(one.get("containerID", "")) for one in attachments)


def _check_version(command: str, version: str) -> None:
    since = _SINCE.get(command, (0, 0, 0))
    if version not in SUPPORTED_VERSIONS or tuple(map(int, version.split("."))) < since:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"{command} does not work with cniVersion {version}",
            f"supported: {', '.join(SUPPORTED_VERSIONS)}",
        )


def _arguments(text: str) -> dict[str, str]:
    """CNI_ARGS: ``K=V;K=V``. Keys that we do not know are somebody else's business."""
    pairs = [pair.partition("=") for pair in text.split(";") if pair]
    broken = next((key for key, equals, _ in pairs if not equals), None)
    if broken is not None:
        raise CniError(Code.BAD_ENVIRONMENT, f"CNI_ARGS: {broken!r} is not KEY=VALUE")
    return {key: value for key, _, value in pairs}


def _check_names(request: Request) -> None:
    """The specification's syntax; container and pod ids also become file names."""
    for what, value in (
        ("CNI_CONTAINERID", request.container_id),
        ("K8S_POD_UID", request.pod_uid or "x"),
        ("the network's name", request.configuration.name or "x"),
    ):
        if not value[0].isalnum() or not all(c.isalnum() or c in "_.-" for c in value):
            raise CniError(Code.BAD_ENVIRONMENT, f"{what} {value!r} has a character it must not")
    name = request.interface
    if len(name) > _MAX_INTERFACE_NAME or name in (".", "..") or set(name) & set("/: \t\n"):
        raise CniError(Code.BAD_ENVIRONMENT, f"CNI_IFNAME {name!r} is no interface name")
