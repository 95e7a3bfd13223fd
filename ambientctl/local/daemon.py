"""A mesh as a daemon: namespaces, the first process, the supervisor.

``python -m ambientctl.local.daemon NAME`` reads its configuration from standard input, gives itself
new namespaces and forks. The child is process 1 in there: when it ends, the namespaces, devices,
rules and mounts go with it. It forks the supervisor and is ``init`` from then on.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any, Final, NoReturn

from ambientctl.local import namespaces as ns
from ambientctl.local.init import Init

MESH_NAMESPACES: Final = ("mnt", "net", "ipc", "uts", "pid")


def enter_mesh(config: dict[str, Any]) -> None:
    """New namespaces for the whole mesh; processes forked from now on live in them."""
    uid, gid = os.getuid(), os.getgid()
    if config["rootless"]:
        ns.unshare("user", *MESH_NAMESPACES)
        ns.map_root_to_caller(uid, gid)
    else:
        ns.unshare(*MESH_NAMESPACES)


def prepare_mesh() -> None:
    """As process 1: a file system of its own where the mesh leaves traces."""
    ns.mount("none", "/", flags=ns.MS_REC | ns.MS_PRIVATE)
    ns.mount("proc", "/proc", "proc", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC)
    ns.mount("tmpfs", "/run", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
    ns.set_hostname("ambient-fabric")
    ns.loopback_up()


def report(fd: int, message: dict[str, str]) -> None:
    """Tell the waiting ``ambientctl local up``."""
    os.write(fd, json.dumps(message).encode() + b"\n")


def first_process(config: dict[str, Any]) -> NoReturn:
    """Process 1 of the mesh."""
    try:
        prepare_mesh()
    except OSError as error:
        report(config["report_fd"], {"error": f"cannot set up the mesh's file system: {error}"})
        os._exit(1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = os.fork()
    if supervisor == 0:
        ours.close()
        # Here, not at the top: trio and all the rest must not weigh on process 1.
        from ambientctl.local.supervisor import main as supervise

        os._exit(supervise(config, theirs))
    theirs.close()
    for fd in (config["report_fd"], config["api_fd"]):
        os.close(fd)
    os._exit(Init(ours, supervisor).run())


def main() -> None:
    """Start a mesh as a daemon; standard input is its configuration (layout.MeshConfig)."""
    config = json.load(sys.stdin)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    try:
        enter_mesh(config)
    except OSError as error:
        report(config["report_fd"], {"error": str(error), "kind": "namespaces"})
        sys.exit(1)
    # Held open, since the child soon covers /proc with that of its own process namespace.
    proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        first_process(config)
    try:
        write_pid(config["folder"], pid, proc)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        reason = f"cannot write the state folder {config['folder']}: {error.strerror}"
        report(config["report_fd"], {"error": reason})
        sys.exit(1)


def write_pid(folder: str, pid: int, proc: int) -> None:
    """Note process id and start time: by both, ``down`` recognises the mesh.

    ``proc`` is a descriptor of the /proc in which the process has that id.
    """
    with open(os.open(f"{pid}/stat", os.O_RDONLY, dir_fd=proc)) as stat:
        start_ticks = stat.read().rsplit(")", 1)[1].split()[19]
    path = os.path.join(folder, "pid")
    with open(path + ".new", "w") as out:
        out.write(f"{pid} {start_ticks}\n")
    os.rename(path + ".new", path)


if __name__ == "__main__":
    main()
