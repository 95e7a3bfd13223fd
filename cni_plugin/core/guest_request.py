"""What ``ambientctl enroll`` and ``unenroll`` send to the node agent."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from ambient.api.errors import MeshError

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")  # RFC 1123 label
_MAX_NAME: Final = 63


class BadGuestError(MeshError):
    """The request cannot be understood, or cannot be granted as it is."""


class Enroll(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bring a network namespace into the mesh, or a control group of the node's own network."""

    name: str
    namespace: str
    service_account: str
    device: int
    inode: int
    """Which namespace or group; the agent checks that it found the same."""
    netns: str = ""
    pid: int = 0
    cgroup: str = ""
    """One of them says where it is."""


class Unenroll(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take it out again."""

    name: str
    namespace: str


T = TypeVar("T", Enroll, Unenroll)


def parse(raw: bytes, kind: type[T]) -> T:
    """Read a request. Raises BadGuestError that names what is wrong."""
    try:
        request = msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadGuestError(f"the request cannot be read: {error}") from None
    texts: dict[str, Any] = msgspec.structs.asdict(request)
    for field in ("name", "namespace", "service_account"):
        value = texts.get(field, "x")
        if len(value) > _MAX_NAME or not _NAME.fullmatch(value):
            raise BadGuestError(
                f"{field} {value!r} is no Kubernetes name",
                hint="up to 63 small letters, digits and dashes",
            )
    if isinstance(request, Enroll):
        places = (request.netns, request.pid, request.cgroup)
        if sum(map(bool, places)) != 1:
            raise BadGuestError(
                "the request must name one of a process, a namespace's path and a control group"
            )
    return request
