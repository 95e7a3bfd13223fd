"""The agent's door on its node: HTTP on a unix socket, for the plugin and for ``ambientctl``.

``POST /cmdadd`` by the plugin; ``POST /enroll`` and ``POST /unenroll`` for processes outside
Kubernetes.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.telemetry.io.http import Handler, Request, Response, Routes, serve_http
from cni_plugin.core import guest_request
from cni_plugin.core.event import Added, BadEventError, parse
from cni_plugin.core.guest_request import BadGuestError, Enroll, Unenroll
from cni_plugin.io.agent import Answer
from cni_plugin.io.guests import Guests

_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o750

Adding = Callable[[Added], Awaitable[Answer]]


async def serve(
    path: str,
    added: Adding,
    guests: Guests,
    statuses: Counter[int],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer plugins until cancelled, and count the answers by their HTTP status.

    Raises MeshError where the socket cannot be made.
    """

    async def add(request: Request) -> Response:
        answer = await added(parse(request.body))
        return _json({"enrolled": answer.enrolled, "reason": answer.reason})

    async def counted(request: Request) -> Response:
        response = await _explaining(add)(request)
        statuses[response.status] += 1
        return response

    async def enroll(request: Request) -> Response:
        return _json(await guests.enroll(guest_request.parse(request.body, Enroll)))

    async def unenroll(request: Request) -> Response:
        return _json(await guests.unenroll(guest_request.parse(request.body, Unenroll)))

    routes = Routes()
    routes.add("/cmdadd", counted, methods=())
    routes.add("/enroll", _explaining(enroll), methods=("POST",))
    routes.add("/unenroll", _explaining(unenroll), methods=("POST",))
    listener = _listen(path)
    try:
        await serve_http([trio.SocketListener(listener)], routes, task_status=task_status)
    finally:
        _remove(path)


def _json(body: object) -> Response:
    return Response(200, msgspec.json.encode(body), "application/json")


def _explaining(handler: Handler) -> Handler:
    """A refusal as a status and one line: 400 is the caller's fault, after 503 it may try again."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except MeshError as error:
            status = 400 if isinstance(error, BadEventError | BadGuestError) else 503
            text = f"{error}" + (f" ({error.hint})" if error.hint else "")
            return Response(status, f"{text}\n")

    return handle


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
