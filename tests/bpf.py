"""What a test needs of the kernel's BPF, and why it is skipped where that is missing."""

from __future__ import annotations

import errno
import functools
import os
import subprocess
from contextlib import suppress

from ambient.net.io import bpf, bpf_compiler
from ambient.net.io.bpf import MapType

INSTALL_HINT = "install it: apt-get install --no-install-recommends python3-bpfcc"


@functools.cache
def unavailable() -> str:
    """Why there are no BPF programs here; empty where there are."""
    if os.geteuid() != 0:
        return "BPF programs need root"
    try:
        bpf.Map.create(MapType.HASH, "probe", (4, 4), 1).close()
    except OSError as error:
        if error.errno == errno.EPERM:
            return "BPF needs capabilities in the first user namespace (run as root)"
        return f"the kernel has no BPF: {error.strerror}"
    if not bpf_compiler.installed():
        return f"bcc is not installed ({INSTALL_HINT})"
    return ""


def mount_bpf_fs() -> None:
    """A BPF file system of this sandbox's own, for names of maps and links; it ends with it."""
    if not bpf.is_bpf_fs(bpf.BPF_FS):
        with suppress(FileExistsError):
            os.makedirs(bpf.BPF_FS)
        subprocess.run(["mount", "-t", "bpf", "bpf", bpf.BPF_FS], check=True)
