"""What each CNI command does. The decision about a pod is the agent's; here it is only asked."""

from __future__ import annotations

import os
import sys
from typing import Any

from cni_plugin.core.reply import CniError, Code, passed_through
from cni_plugin.core.request import LATEST_VERSION, SUPPORTED_VERSIONS, Request
from cni_plugin.io import agent_client, records

_SERVICE_UNAVAILABLE = 503
"""The agent's answer when trying again may help."""


def perform(request: Request) -> dict[str, Any] | None:
    """The object to print, or None. Raises CniError."""
    try:
        match request.command:
            case "ADD":
                return _add(request)
            case "DEL":
                _delete(request)
            case "CHECK":
                _check(request)
            case "GC":
                _collect(request)
            case "VERSION":
                version = request.configuration.version
                known = version if version in SUPPORTED_VERSIONS else LATEST_VERSION
                return {"cniVersion": known, "supportedVersions": list(SUPPORTED_VERSIONS)}
            case _:  # STATUS: ADD works for every pod, or says for which one it does not
                pass
    except OSError as error:
        where = error.filename or request.configuration.run_dir
        raise CniError(Code.IO_FAILURE, f"{where}: {error.strerror}") from None
    return None


def _add(request: Request) -> dict[str, Any]:
    configuration = request.configuration
    result = passed_through(configuration.previous_result, configuration.version)
    if not request.pod_name or not request.pod_namespace:
        return result  # not a Kubernetes pod
    if request.pod_namespace in configuration.exclude_namespaces:
        return result
    if configuration.previous_result is None:
        raise CniError(
            Code.BAD_CONFIGURATION,
            "no prevResult: ambient-cni does not make interfaces",
            "list it after the plugin that connects the pod, as its installer does",
        )
    record = _record(request)
    records.write(configuration.run_dir, record)
    try:
        _enrol(request, record)
    except CniError:
        records.remove(configuration.run_dir, record)
        raise
    return result


def _record(request: Request) -> records.Record:
    try:
        info = os.stat(request.netns)
    except OSError as error:
        raise CniError(
            Code.BAD_ENVIRONMENT,
            f"CNI_NETNS {request.netns}: {error.strerror}",
            "the pod's network namespace vanished; the runtime makes a new one when it tries again",
        ) from None
    return records.Record(
        uid=request.pod_uid,
        name=request.pod_name,
        namespace=request.pod_namespace,
        container_id=request.container_id,
        netns=request.netns,
        device=info.st_dev,
        inode=info.st_ino,
        ips=tuple(request.ips),
    )


def _enrol(request: Request, record: records.Record) -> None:
    configuration = request.configuration
    path = f"{configuration.run_dir}/{agent_client.EVENT_SOCKET}"
    try:
        status, text = agent_client.post(path, "/cmdadd", record._asdict())
    except agent_client.AgentAbsentError as absence:
        own = request.pod_namespace == configuration.system_namespace
        if own or configuration.start_without_agent:
            _say(f"{request.pod} starts without the node agent ({path}: {absence})")
            return
        raise CniError(
            Code.TRY_AGAIN,
            f"no node agent on {path} ({absence}), so {request.pod} cannot join the mesh yet",
            "is the DaemonSet istio-cni-node running on this node? To let pods start outside the "
            'mesh meanwhile, set "if_agent_absent": "start" in the CNI configuration',
        ) from None
    if status == _SERVICE_UNAVAILABLE:
        raise CniError(Code.TRY_AGAIN, f"{request.pod} cannot join the mesh yet: {text}")
    if status != 200:
        raise CniError(Code.ENROLMENT_FAILED, f"{request.pod} cannot join the mesh: {text}")


def _delete(request: Request) -> None:
    """Forget the sandbox; a newer one of the same pod has overwritten the record and keeps it."""
    for record in records.read_all(request.configuration.run_dir):
        if record.container_id == request.container_id:
            records.remove(request.configuration.run_dir, record)


def _check(request: Request) -> None:
    configuration = request.configuration
    if configuration.previous_result is None:
        raise CniError(Code.BAD_CONFIGURATION, "CHECK needs the prevResult of ADD")
    excluded = request.pod_namespace in configuration.exclude_namespaces
    if not request.pod_name or not request.pod_namespace or excluded:
        return
    known = records.read_all(configuration.run_dir)
    if not any(record.container_id == request.container_id for record in known):
        raise CniError(
            Code.UNKNOWN_CONTAINER, f"{request.container_id} of {request.pod} was never added"
        )


def _collect(request: Request) -> None:
    """Without a list nothing is known to be gone: pods that live would lose their records."""
    valid = request.configuration.valid_containers
    if valid is None:
        return
    for record in records.read_all(request.configuration.run_dir):
        if record.container_id not in valid:
            records.remove(request.configuration.run_dir, record)


def _say(text: str) -> None:
    sys.stderr.write(f"ambient-cni: {text}\n")
