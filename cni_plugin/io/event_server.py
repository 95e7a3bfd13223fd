"""The plugin's door: HTTP on a unix socket, ``POST /cmdadd``."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.telemetry.io.http import Request, Response, Routes, serve_http
from cni_plugin.core.event import Added, BadEventError, parse
from cni_plugin.io.agent import Answer

_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o750

Handler = Callable[[Added], Awaitable[Answer]]


async def serve(
    path: str, added: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer plugins until cancelled. Raises MeshError where the socket cannot be made."""

    async def handle(request: Request) -> Response:
        try:
            answer = await added(parse(request.body))
        except BadEventError as error:
            return Response(400, f"{error}\n")
        except MeshError as error:
            # 503: the runtime tries again, and by then it may work.
            return Response(503, f"{error}" + (f" ({error.hint})" if error.hint else "") + "\n")
        body = {"enrolled": answer.enrolled, "reason": answer.reason}
        return Response(200, msgspec.json.encode(body), "application/json")

    routes = Routes()
    routes.add("/cmdadd", handle, methods=())
    listener = _listen(path)
    try:
        await serve_http([trio.SocketListener(listener)], routes, task_status=task_status)
    finally:
        _remove(path)


def _listen(path: str) -> trio.socket.SocketType:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        Path(path).parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        _refuse_second_agent(path)
        sock.bind(path)
        os.chmod(path, _MODE)
        sock.listen(64)
        return trio.socket.from_stdlib_socket(sock)
    except OSError as error:
        sock.close()
        raise MeshError(
            f"cannot listen on {path}: {error.strerror or error}",
            hint="CNI_AGENT_RUN_DIR must be a writable folder, and its path short",
        ) from None
    except BaseException:
        sock.close()
        raise


def _refuse_second_agent(path: str) -> None:
    """Take the place of a socket that nobody serves. Raises MeshError where somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                Path(path).unlink(missing_ok=True)
            return
    raise MeshError(
        f"another node agent serves {path}", hint="stop it first, or choose another run dir"
    )


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
