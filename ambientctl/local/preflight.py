"""What this machine must have before a mesh is started, each missing thing with its remedy."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from ambient.api.errors import MeshError
from ambientctl.local.layout import CONTAINER_PATH, DEBIAN_CNI, MANIFESTS, VENV_BIN

_PROGRAMS: Final = {"ip": "iproute2", "nft": "nftables"}
_PLUGINS: Final = ("ptp", "host-local", "portmap")
_OWN_PROGRAMS: Final = ("ztunnel", "istiod-lite", "ambient-cni", "ambient-cni-agent", "waypoint")
_SWITCHES: Final = {
    # Sysctl, the value that forbids, the value that allows.
    "user.max_user_namespaces": ("0", "15000"),
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
}


def check_machine() -> None:
    """Raises MeshError that names the first missing package or file."""
    if not sys.platform.startswith("linux"):
        raise MeshError("the local mesh needs Linux: its nodes and pods are network namespaces")
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=CONTAINER_PATH) is None:
            raise _missing(package, program)
    for plugin in _PLUGINS:
        if not os.access(DEBIAN_CNI / plugin, os.X_OK):
            raise _missing("containernetworking-plugins", str(DEBIAN_CNI / plugin))
    for program in _OWN_PROGRAMS:
        if not os.access(VENV_BIN / program, os.X_OK):
            raise MeshError(
                f"{program} is not installed in {VENV_BIN}",
                hint="install the whole distribution: make demo, or pip install ambient-mesh",
            )
    if not MANIFESTS.is_dir():
        raise MeshError(f"the mesh's manifests are missing: {MANIFESTS}", hint="clone it again")


def _missing(package: str, what: str) -> MeshError:
    sudo = "" if os.getuid() == 0 else "sudo "
    return MeshError(
        f"Debian package {package} is missing ({what} not found)",
        hint=f"{sudo}apt-get install --no-install-recommends {package}",
    )


def namespaces_refused(reason: str, *, rootless: bool) -> MeshError:
    """The kernel refused new namespaces: which switch is off?"""
    for name, (forbids, allows) in _SWITCHES.items() if rootless else ():
        if _sysctl(name) == forbids:
            return MeshError(
                f"user namespaces are switched off on this machine ({name}={forbids})",
                hint=f"sudo sysctl -w {name}={allows}, or run as root",
            )
    what = "a user namespace" if rootless else "namespaces"
    hint = "run as root" if rootless else "inside a container it has to be a privileged one"
    return MeshError(f"this machine refuses {what}: {reason}", hint=hint)


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text().strip()
    except OSError:
        return ""
