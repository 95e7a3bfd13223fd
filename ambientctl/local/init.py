"""The mesh's first process: starts, signals and reaps every other one, as the supervisor asks.

It is process 1 of the mesh's namespaces (``daemon``): when it ends, for whatever reason, the kernel
ends everything else. It stays single-threaded and small, so that forking from it is quick and safe.

Messages are JSON in SEQPACKET datagrams. Request: ``{"id", "argv", "env", "cwd", "join", "unshare",
"mounts", "sysctls", "hostname"}`` with three descriptors (stdin, stdout, stderr), or ``{"signal",
"pid"}``. Answers: ``{"id", "pid"}`` | ``{"id", "error"}``, and ``{"exited": pid, "code"}``, where a
negative code is the signal that ended it.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
from typing import Any, Final, NoReturn

from ambientctl.local import namespaces as ns

MAX_REQUEST_BYTES: Final = 1 << 17
"""One datagram: command line, environment and mounts of one process."""
_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Init:
    """Process 1: starts, signals and reaps on request."""

    def __init__(self, requests: socket.socket, supervisor: int) -> None:
        self._requests = requests
        self._supervisor = supervisor
        self._starting: dict[int, tuple[int, int]] = {}
        """Error pipe to (process id, request id), until exec has happened or failed."""
        self._children: set[int] = set()

    def run(self) -> int:
        """Serve until the supervisor ends; returns its exit status."""
        wake_r, wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _FORWARDED:
            signal.signal(number, lambda got, _frame: os.kill(self._supervisor, got))
        poll = select.poll()
        poll.register(wake_r, select.POLLIN)
        poll.register(self._requests, select.POLLIN)
        self._poll = poll
        while True:
            for fd, _ in poll.poll():
                if fd == wake_r:
                    _drain(wake_r)
                elif fd == self._requests.fileno():
                    self._serve_one()
                elif fd in self._starting:
                    self._report_start(fd)
            status = self._reap()
            if status is not None:
                return status

    def _serve_one(self) -> None:
        data, fds, _, _ = socket.recv_fds(self._requests, MAX_REQUEST_BYTES, 3)
        try:
            if not data:  # the supervisor closed it; its end follows
                self._poll.unregister(self._requests)
                return
            request = json.loads(data)
            if "signal" in request:
                if request["pid"] in self._children:  # never a number that was given away again
                    os.kill(request["pid"], request["signal"])
                return
            self._start(request, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _start(self, request: dict[str, Any], fds: list[int]) -> None:
        error_r, error_w = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            become(request, fds, error_w)
        os.close(error_w)
        self._children.add(pid)
        self._starting[error_r] = (pid, request["id"])
        self._poll.register(error_r, select.POLLIN)

    def _report_start(self, error_r: int) -> None:
        """The error pipe closed (exec worked) or holds the reason why it did not."""
        pid, request_id = self._starting.pop(error_r)
        self._poll.unregister(error_r)
        text = os.read(error_r, 4096).decode(errors="replace")
        os.close(error_r)
        self._tell({"id": request_id, "error": text} if text else {"id": request_id, "pid": pid})

    def _reap(self) -> int | None:
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 1
            if pid == 0:
                return None
            code = os.waitstatus_to_exitcode(raw)
            if pid == self._supervisor:
                return code if code >= 0 else 128 - code
            if pid not in self._children:
                continue  # an orphan of some container
            for error_r, (starting, _) in list(self._starting.items()):
                if starting == pid:
                    self._report_start(error_r)
            self._children.discard(pid)
            self._tell({"exited": pid, "code": code})

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._requests.send(json.dumps(message).encode())
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise  # those mean that the supervisor is ending


_LAYERS: Final = "/run"
"""Where the layers are kept: every container has a /run of its own, which is mounted later."""


def become(request: dict[str, Any], fds: list[int], error_w: int) -> NoReturn:
    """In the fork: enter the namespaces, mount, and turn into the wanted program.

    With an empty command line the process only waits, keeping its namespaces open (Kubernetes
    calls that a pause container).
    """
    try:
        signal.set_wakeup_fd(-1)
        for number in (*_FORWARDED, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
            os.close(fd)
        _enter(request)
        argv = request["argv"]
        if argv:
            os.chdir(request.get("cwd") or "/")
            os.execvpe(argv[0], argv, request["env"])
        ns.set_process_name(request["env"].get("PAUSE_NAME", "pause"))
        os.closerange(3, error_w)
        os.closerange(error_w + 1, 1 << 20)
        os.close(error_w)
        while True:
            signal.pause()
    except BaseException as error:  # noqa: BLE001 - the fork must never return into the caller
        reason = str(error)
        if isinstance(error, FileNotFoundError) and request["argv"]:
            reason = f"{request['argv'][0]}: {error.strerror}"
        os.write(error_w, (reason or repr(error)).encode()[:4000])
    os._exit(127)


def _enter(request: dict[str, Any]) -> None:
    """Namespaces first, then mounts, kernel settings and the host name."""
    opened = [(os.open(path, os.O_RDONLY), path.rsplit("/", 1)[1]) for path in request["join"]]
    for fd, kind in opened:
        ns.setns(fd, kind)
        os.close(fd)
    if request["unshare"]:
        ns.unshare(*request["unshare"])
    if "net" in request["unshare"]:
        ns.loopback_up()
    if "mnt" in request["unshare"]:
        make_mounts(request["mounts"])
    for path, value in request["sysctls"].items():
        with open(f"/proc/sys/{path}", "w") as out:
            out.write(value)
    if request["hostname"]:
        ns.set_hostname(request["hostname"])


def make_mounts(mounts: list[list[Any]]) -> None:
    """Do the mounts, each ``[source, target, read_only]``; an empty source is a new tmpfs.

    All sources are opened first: a mount may hide the source of a later one. Where a target does
    not exist, the folder that is to hold it gets a layer of its own, so that the machine's files
    stay as they are.
    """
    sources = [os.open(source, os.O_PATH) if source else -1 for source, _, _ in mounts]
    covered = _layers([os.path.realpath(target) for _, target, _ in mounts])
    for fd, (_, target, read_only) in zip(sources, mounts, strict=True):
        real = os.path.realpath(target)
        if any(_inside(real, path) for path in covered):
            _make_target(real, fd)
        if fd < 0:
            ns.mount("tmpfs", real, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
        else:
            ns.bind(fd, real, read_only=read_only)
            os.close(fd)
        covered.append(real)


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _layers(targets: list[str]) -> list[str]:
    """Lay a writable layer over every folder in which a target has to be made; those folders.

    A folder that we may not look into is hidden by an empty one: its mode would hold in the layer.
    Raises OSError for a target at the very top, and where the kernel refuses.
    """
    wanted: list[str] = []
    for number, target in enumerate(targets):
        before = [*targets[:number], *wanted]
        if os.path.exists(target) or any(_inside(target, path) for path in before):
            continue
        parent = os.path.dirname(target)
        while not os.path.exists(parent):
            parent = os.path.dirname(parent)
        if parent == "/":
            raise OSError(
                f"mount path {target} does not exist on this machine; "
                "the local mesh can make new paths inside the folders that there are"
            )
        wanted.append(parent)
    if wanted:
        ns.mount("tmpfs", _LAYERS, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
    for number, folder in enumerate(wanted):
        if not os.access(folder, os.R_OK | os.X_OK):
            ns.mount("tmpfs", folder, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
            continue
        upper, work = f"{_LAYERS}/{number}/upper", f"{_LAYERS}/{number}/work"
        os.makedirs(upper)
        os.mkdir(work)
        options = f"lowerdir={folder},upperdir={upper},workdir={work}"
        ns.mount("overlay", folder, "overlay", 0, options)
    return wanted


def _make_target(path: str, source_fd: int) -> None:
    if source_fd < 0 or os.path.isdir(f"/proc/self/fd/{source_fd}"):
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 512):
            pass
    except BlockingIOError:
        pass
