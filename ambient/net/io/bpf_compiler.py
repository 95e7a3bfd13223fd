"""Compile C to BPF by bcc, in a process of its own.

bcc is a Debian package (``python3-bpfcc``) with LLVM inside: 100 MB that nobody wants to keep, and
a package that a virtual environment does not see. So a child process finds it, compiles, writes
the code of each function to its standard output, and ends.

The sources use the stable interface only, for which bcc brings ``bpf.h`` itself, and none of the
kernel's own headers; a folder with a few nearly empty files takes their place.
"""

from __future__ import annotations

import glob
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ambient.api.errors import MeshError
from ambient.net.io.bpf import BpfError

_COMMAND: Final = ("-m", "ambient.net.io.bpf_compiler")
_INSTALL: Final = "install bcc: apt-get install --no-install-recommends python3-bpfcc"
_TIMEOUT_S: Final = 60.0
_SYSTEM_PACKAGES: Final = ("/usr/lib/python3/dist-packages", "/usr/lib/python3*/site-packages")
_TYPES: Final = """
typedef unsigned char __u8, u8; typedef unsigned short __u16, u16, __be16, __le16, __sum16;
typedef unsigned int __u32, u32, __be32, __le32, __wsum;
typedef unsigned long long __u64, u64, __be64, __le64;
typedef signed char __s8, s8; typedef short __s16, s16; typedef int __s32, s32, pid_t;
typedef long long __s64, s64; typedef unsigned long size_t, uintptr_t; typedef _Bool bool;
#define __aligned_u64 __u64 __attribute__((aligned(8)))
"""
_VERSION: Final = """
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 17, 0)
"""
_HEADERS: Final = {
    "linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "linux/types.h": f"#pragma once\n{_TYPES}",
    "linux/version.h": _VERSION,
    "linux/bpf.h": "#include <bcc/bpf.h>\n",
    "uapi/linux/bpf.h": "#include <bcc/bpf.h>\n",
    **dict.fromkeys(
        (
            "linux/bpf_common.h",
            "linux/log2.h",
            "asm/page.h",
            "uapi/linux/if_ether.h",
            "uapi/linux/if_packet.h",
        ),
        "",
    ),
}


def compile_c(source: str, names: tuple[str, ...], places: Mapping[str, int]) -> dict[str, bytes]:
    """The code of these functions of ``source``, in which ``PLACE(name)`` is a place's number.

    Blocks for about half a second. Raises BpfError: no bcc here, or the source has errors.
    """
    macros = "".join(f"#define PLACE_{name} {number}\n" for name, number in places.items())
    request = json.dumps({"source": macros + source, "names": names})
    try:
        done = subprocess.run(
            [sys.executable, *_COMMAND],
            input=request,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BpfError(f"the BPF compiler does not run: {error}") from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or ["it ended without a word"]
        errors = [line for line in reason if "error:" in line] or reason[-1:]
        raise BpfError(
            f"no BPF programs: {errors[0]}", hint="" if "error:" in errors[0] else _INSTALL
        )
    return {name: bytes.fromhex(code) for name, code in json.loads(done.stdout).items()}


def installed() -> bool:
    """Whether bcc can probably be found."""
    return any(os.path.isdir(f"{folder}/bcc") for folder in _folders())


def _folders() -> list[str]:
    return [*sys.path, *(path for pattern in _SYSTEM_PACKAGES for path in glob.glob(pattern))]


def _bcc() -> Any:
    sys.path[:] = _folders()
    try:
        return importlib.import_module("bcc")
    except (ImportError, OSError) as error:
        raise MeshError(f"bcc is not installed: {error}") from None


def _main() -> int:
    """The child: a request on standard input, the code on standard output."""
    request = json.load(sys.stdin)
    try:
        bcc = _bcc()
    except MeshError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        for name, text in _HEADERS.items():
            path = Path(folder, "include", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        os.environ["BCC_KERNEL_SOURCE"] = folder
        flags = ["-Wno-everything", "-DPLACE(name)=bpf_pseudo_fd(1,PLACE_##name)"]
        try:
            module = bcc.BPF(text=request["source"], cflags=flags)
        except Exception as error:  # noqa: BLE001 - bcc raises no other kind
            sys.stderr.write(f"{error}\n")
            return 1
        code = {name: module.dump_func(name.encode()).hex() for name in request["names"]}
    json.dump(code, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
