"""Processes outside Kubernetes that are in the mesh: a file each, ``<run dir>/guests/<uid>.json``.

They outlive the agent's restarts, as the records of pods do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from ambient.kube.core.objects import (
    AMBIENT_MODE_LABEL,
    REDIRECTION_ANNOTATION,
    Metadata,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
)
from cni_plugin.core.enrol import AMBIENT, NONE

_PREFIX: Final = "guest."


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """One network namespace, or control group, and the identity that it has in the mesh."""

    name: str
    namespace: str
    service_account: str
    netns: str
    """Path, as the agent sees it; empty for the node's own network."""
    device: int
    inode: int
    ips: tuple[str, ...]
    cgroup: str = ""
    """Of a unit in the node's own network: path of its control group, as the agent sees it."""
    annotation: str | None = None
    """What a pod's redirection annotation would say."""
    leaving: bool = False
    entry_made: bool = False
    """The WorkloadEntry is ours, and goes with the guest."""

    @property
    def uid(self) -> str:
        """What ztunnel knows it by; no pod's UID looks like that."""
        return f"{_PREFIX}{self.namespace}.{self.name}"

    def pod(self) -> Pod:
        """The guest as the agent's decisions see it: a pod with the mesh's label."""
        annotations = {REDIRECTION_ANNOTATION: self.annotation} if self.annotation else {}
        return Pod(
            metadata=Metadata(
                name=self.name,
                namespace=self.namespace,
                uid=self.uid,
                labels={AMBIENT_MODE_LABEL: NONE if self.leaving else AMBIENT},
                annotations=annotations,
            ),
            spec=PodSpec(service_account_name=self.service_account),
            status=PodStatus(
                phase="Running",
                pod_ip=self.ips[0],
                pod_ips=tuple(PodIP(ip=ip) for ip in self.ips),
            ),
        )


def is_guest(uid: str) -> bool:
    """Whether a UID is a guest's."""
    return uid.startswith(_PREFIX)


def folder(run_dir: str) -> str:
    return f"{run_dir}/guests"


def read(run_dir: str, uid: str) -> Guest | None:
    """None where there is none, or its file is damaged."""
    try:
        return msgspec.json.decode(Path(folder(run_dir), f"{uid}.json").read_bytes(), type=Guest)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def read_all(run_dir: str) -> Iterator[Guest]:
    """Every readable file."""
    try:
        names = sorted(os.listdir(folder(run_dir)))
    except FileNotFoundError:
        return
    for name in names:
        guest = read(run_dir, name.removesuffix(".json"))
        if guest is not None:
            yield guest


def write(run_dir: str, guest: Guest) -> None:
    """Replace the guest's file in one step. Raises OSError."""
    place = Path(folder(run_dir))
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = place / f"{guest.uid}.tmp"
    temporary.write_bytes(msgspec.json.encode(guest))
    temporary.replace(place / f"{guest.uid}.json")


def remove(run_dir: str, uid: str) -> None:
    """Harmless when repeated."""
    Path(folder(run_dir), f"{uid}.json").unlink(missing_ok=True)
