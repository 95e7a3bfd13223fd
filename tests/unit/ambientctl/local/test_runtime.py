"""Processes in namespaces through process 1: a real one, as a child of the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
import trio

from ambientctl.local.runtime import Mount, ProcessSpec, Runtime, StartError

PATH = {"PATH": os.defpath + ":/usr/sbin:/sbin"}
INIT = """
import socket, subprocess, sys
from ambientctl.local.init import Init
guarded = subprocess.Popen(["sleep", "infinity"])
requests = socket.socket(fileno=int(sys.argv[1]))
requests.set_inheritable(False)
sys.exit(Init(requests, guarded.pid).run())
"""


def start_init(fd):
    return subprocess.Popen([sys.executable, "-c", INIT, str(fd)], pass_fds=[fd])


@pytest.fixture
async def runtime(nursery):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        init = start_init(theirs.fileno())
    runtime = Runtime(ours)
    nursery.start_soon(runtime.serve)
    yield runtime
    nursery.cancel_scope.cancel()
    init.terminate()  # it hands this on to what it guards, and ends with it
    init.wait()
    ours.close()


async def test_input_output_and_status_of_a_command(runtime):
    done = await runtime.run(
        ProcessSpec(argv=["sh", "-c", "cat; echo no >&2; exit 3"], env=PATH), b"yes"
    )
    assert done == (3, b"yes", b"no\n")


@pytest.mark.netns
async def test_a_process_that_only_waits_lends_its_namespaces(runtime):
    holder = await runtime.start(
        ProcessSpec(unshare=["net", "uts"], hostname="pod-1", sysctls={"net/ipv4/ip_forward": "1"})
    )
    join = [holder.namespace("net"), holder.namespace("uts")]
    script = "hostname; cat /proc/sys/net/ipv4/ip_forward; ip -br link"
    done = await runtime.run(ProcessSpec(argv=["sh", "-c", script], env=PATH, join=join))
    name, forwarding, link = done.out.decode().splitlines()
    assert (name, forwarding, link.split()[0]) == ("pod-1", "1", "lo")
    await runtime.kill(holder)
    assert holder.code == -signal.SIGKILL


@pytest.mark.netns
async def test_mounts_are_seen_by_the_process_alone(runtime, tmp_path):
    (tmp_path / "file").write_text("content")
    mounts = [Mount("", "/run"), Mount(str(tmp_path), "/var/run/a/b", True)]
    spec = ProcessSpec(
        argv=["sh", "-c", "ls /run; cat /run/a/b/file; touch /run/a/b/x || echo read-only"],
        env=PATH,
        unshare=["mnt"],
        mounts=mounts,
    )
    assert (await runtime.run(spec)).out == b"a\ncontentread-only\n"
    assert "a" not in os.listdir("/run")


MOUNT = """
import sys
from ambientctl.local.init import make_mounts
source, folder = sys.argv[1:]
make_mounts([[source, folder + "/a/b", False]])
print(open(folder + "/a/b/file").read())
"""


@pytest.mark.netns
def test_a_folder_that_another_user_closed_is_no_obstacle(tmp_path):
    source, closed = tmp_path / "source", tmp_path / "closed"
    source.mkdir()
    (source / "file").write_text("content")
    closed.mkdir(mode=0o700)
    try:
        os.chown(closed, 12345, 12345)
    except OSError:
        pytest.skip("there is no other user in this namespace")
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*alone, sys.executable, "-c", MOUNT, str(source), str(closed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("content\n", "")
    assert list(closed.iterdir()) == []


@pytest.mark.netns
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (ProcessSpec(argv=["no-such"], env=PATH), "no-such: No such file"),
        (
            ProcessSpec(argv=["true"], env=PATH, unshare=["mnt"], mounts=[Mount("", "/nowhere")]),
            "mount path /nowhere does not exist",
        ),
        (ProcessSpec(argv=["true"], env={"A": "x" * 200_000}), "environment need"),
    ],
)
async def test_a_start_that_fails_says_why(runtime, spec, reason):
    with pytest.raises(StartError, match=reason):
        await runtime.start(spec)


async def test_nothing_but_the_three_streams_is_inherited(runtime):
    done = await runtime.run(ProcessSpec(argv=["ls", "/proc/self/fd"], env=PATH))
    assert done.out.split() == [b"0", b"1", b"2", b"3"]  # 3 is the folder that ls reads


async def test_cancelling_a_command_kills_it(runtime):
    with trio.move_on_after(0.2) as scope:
        await runtime.run(ProcessSpec(argv=["sleep", "infinity"], env=PATH))
    assert scope.cancelled_caught
