"""What a start has left behind goes back to the kernel, and the program goes on as before."""

import subprocess
import sys

from ambient.cli.memory import Mapping, unchanged

SMAPS = """\
7f0000001000-7f0000003000 r-xp 00001000 fe:00 11 /usr/lib/libone.so
Rss:                   8 kB
Anonymous:             0 kB
7f0000003000-7f0000004000 r--p 00003000 fe:00 11 /usr/lib/libone.so
Rss:                   4 kB
Anonymous:             4 kB
7f0000004000-7f0000005000 rw-p 00004000 fe:00 11 /usr/lib/libone.so
Anonymous:             0 kB
7f0000006000-7f0000007000 r--s 00000000 fe:00 12 /run/shared
Anonymous:             0 kB
7f0000008000-7f0000009000 r--p 00000000 00:00 0
Anonymous:             0 kB
7ffc00000000-7ffc00001000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
7f0000009000-7f000000b000 r--p 00000000 fe:00 13 /a folder/with spaces.so (deleted)
Anonymous:             0 kB
VmFlags: rd mr mw me sd
"""


def test_only_what_is_as_it_is_in_its_file_is_let_go():
    found = list(unchanged(SMAPS.splitlines(keepends=True)))

    assert found == [Mapping(0x7F0000001000, 0x2000), Mapping(0x7F0000009000, 0x2000)]


PROGRAM = """
from pathlib import Path
import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from ambient.cli.memory import release_libraries

def file_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

key = ec.generate_private_key(ec.SECP256R1())
before = file_kb()
release_libraries()
after = file_kb()
assert ec.generate_private_key(ec.SECP256R1()) != key
with grpc.insecure_channel("localhost:1"):
    pass
print(before, after)
"""


def test_libraries_leave_the_memory_and_still_work():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )

    before, after = map(int, done.stdout.split())
    assert after < before / 2
