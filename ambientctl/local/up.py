"""Starting and ending a mesh, from the host's side."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final, Literal

import msgspec
import trio

from ambient.api.errors import MeshError, UsageError
from ambientctl.local.layout import MAX_NODES, MeshConfig
from ambientctl.local.log_files import last_lines
from ambientctl.local.manifest_files import sample_names
from ambientctl.local.mesh import LocalMesh
from ambientctl.local.preflight import check_machine, namespaces_refused
from ambientctl.local.report import Report
from ambientctl.local.state_folder import SUPERVISOR_LOG, StateFolder

STOP_GRACE_S: Final = 10.0
"""For the mesh's own orderly end; then it is killed."""
TRACE_VARIABLE: Final = "AMBIENT_LOCAL_TRACE"
"""Set to anything: a start that fails shows the supervisor's log before it is removed."""


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``up`` was asked for."""

    name: str = "default"
    nodes: int = 2
    sample: str = "bookinfo"
    """``none`` or a file of manifests/samples."""
    bare: bool = False
    """A cluster without the mesh, to install it as on any other."""
    redirection: Literal["nftables", "ebpf", "auto"] = "nftables"
    """How pods are redirected; a node that cannot have eBPF uses nftables."""
    rootless: bool = False
    """Use a user namespace although the caller is root."""
    api_port: int = 0
    """On the loopback; 0 takes a free one."""


Progress = Callable[[Report], None]


async def up(options: UpOptions, progress: Progress = lambda _: None) -> LocalMesh:
    """Start a mesh and return when it is ready. Raises MeshError, and then nothing is left."""
    folder = StateFolder(options.name)
    _check(options)
    if folder.is_running():
        raise UsageError(
            f"local mesh {options.name!r} is running already",
            hint=f"ambientctl local status --name {options.name}, "
            f"ambientctl local down --name {options.name}",
        )
    check_machine()
    with folder.create(), _listen(options.api_port) as listener:
        report_r, report_w = os.pipe2(os.O_CLOEXEC)
        config = MeshConfig(
            name=options.name,
            folder=str(folder.path),
            nodes=options.nodes,
            sample=options.sample,
            bare=options.bare,
            redirection=options.redirection,
            rootless=options.rootless or os.getuid() != 0,
            api_port=listener.getsockname()[1],
            api_fd=listener.fileno(),
            report_fd=report_w,
        )
        try:
            _spawn(config, folder)
        finally:
            os.close(report_w)
        try:
            await _until_ready(report_r, config, folder, progress)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(folder.end, STOP_GRACE_S)
            if os.environ.get(TRACE_VARIABLE):
                sys.stderr.write((folder.logs / SUPERVISOR_LOG).read_text())
            raise
    return LocalMesh(folder)


async def down(name: str = "default") -> bool:
    """End a mesh and remove what it left; False where there was nothing. Raises MeshError."""
    folder = StateFolder(name)
    was_running = await trio.to_thread.run_sync(folder.end, STOP_GRACE_S)
    existed = folder.path.exists()
    folder.remove()
    return was_running or existed


def _check(options: UpOptions) -> None:
    if not 1 <= options.nodes <= MAX_NODES:
        raise UsageError(f"{options.nodes} nodes cannot be meant", hint=f"from 1 to {MAX_NODES}")
    if options.bare and options.redirection != "nftables":
        raise UsageError(
            "a cluster without the mesh has nothing that redirects",
            hint="ambientctl install --set cni.redirectionBackend=ebpf",
        )
    known = ["none", *sample_names()]
    if options.sample not in known:
        raise UsageError(f"unknown sample {options.sample!r}", hint=f"one of {', '.join(known)}")


def _listen(port: int) -> socket.socket:
    """The API server's socket in the host's own network namespace, where kubectl is."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(256)
    except (OSError, OverflowError) as error:
        listener.close()
        raise MeshError(
            f"port {port} on 127.0.0.1 cannot be used for the API server: "
            f"{getattr(error, 'strerror', None) or error}",
            hint="choose another --api-port, or none: then a free one is taken",
        ) from error
    return listener


def _spawn(config: MeshConfig, folder: StateFolder) -> None:
    """Start the mesh's first process; it detaches at once."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    for name in ("HOME", "XDG_STATE_HOME", "PYTHONDONTWRITEBYTECODE"):
        if name in os.environ:
            environment[name] = os.environ[name]
    with (folder.logs / SUPERVISOR_LOG).open("ab") as log:
        subprocess.run(
            [sys.executable, "-m", "ambientctl.local.daemon", config.name],
            input=msgspec.json.encode(config),
            stdout=log,
            stderr=log,
            pass_fds=(config.api_fd, config.report_fd),
            start_new_session=True,
            cwd="/",
            env=environment,
            check=False,  # why it failed comes through the pipe
        )


async def _until_ready(
    pipe: int, config: MeshConfig, folder: StateFolder, progress: Progress
) -> None:
    buffer = b""
    async with trio.lowlevel.FdStream(pipe) as stream:
        async for chunk in stream:
            *lines, buffer = (buffer + bytes(chunk)).split(b"\n")
            for line in lines:
                report = msgspec.json.decode(line, type=Report)
                if report.kind == "namespaces":
                    raise namespaces_refused(report.error, rootless=config.rootless)
                if report.error:
                    raise MeshError(report.error, hint=report.hint)
                if report.ready:
                    return
                progress(report)
    tail = last_lines(folder.logs / SUPERVISOR_LOG, 1)
    raise MeshError("the mesh's supervisor ended" + "".join(f": {line}" for line in tail))
