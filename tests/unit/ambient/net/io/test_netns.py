"""Visits to another network namespace, and coming home."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from ambient.net.io.netns import CLONE_NEWNET, Netns, _libc

pytestmark = pytest.mark.netns


@pytest.fixture
def other():
    """A namespace that nobody lives in."""

    def make():
        assert _libc.unshare(CLONE_NEWNET) == 0
        return Netns.current()

    with ThreadPoolExecutor(1) as elsewhere:
        made = elsewhere.submit(make).result()
    yield made
    made.close()


def here():
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_a_function_runs_inside_and_the_thread_comes_home(other):
    before = here()
    assert other.run(here) == other.key[1] != before
    assert here() == before


def test_a_visit_within_a_visit_ends_where_it_began(other):
    before = here()
    with Netns.current() as home:
        assert other.run(lambda: (home.run(here), here())) == (before, other.key[1])
    assert here() == before


def test_another_thread_comes_home_to_where_it_was(other):
    def move_and_visit(home):
        _libc.setns(other.fd, CLONE_NEWNET)
        with Netns.open(home) as elsewhere:
            return elsewhere.run(here), here()

    with ThreadPoolExecutor(1) as threads:
        path = f"/proc/{os.getpid()}/ns/net"
        assert threads.submit(move_and_visit, path).result() == (here(), other.key[1])


def test_a_failing_function_still_comes_home(other):
    before = here()
    with pytest.raises(ZeroDivisionError):
        other.run(lambda: 1 // 0)
    assert here() == before


def test_a_socket_stays_where_it_was_made(other):
    with other.run(socket.socket) as inside, socket.socket() as outside:
        outside.bind(("127.0.0.1", 0))  # lo is up here ...
        outside.listen()
        with pytest.raises(OSError, match=r"unreachable|assign"):  # ... and down there
            inside.connect(outside.getsockname())


def test_the_key_tells_namespaces_apart(other):
    with Netns.current() as a, Netns.current() as b:
        assert a.key == b.key != other.key


def test_a_file_that_is_no_network_namespace_is_refused(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(OSError, match="not a namespace"):
        Netns.open(tmp_path / "f")
    with pytest.raises(OSError, match="another kind"):
        Netns.open("/proc/self/ns/mnt")


def test_a_closed_namespace_cannot_be_entered(other):
    other.close()
    with pytest.raises(ValueError, match="closed"):
        other.run(int)
