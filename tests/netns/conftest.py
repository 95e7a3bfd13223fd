"""Fixtures of the tests in network namespaces."""

import functools
import os
import socket
import time

import pytest

from ambient.net.io import bpf_compiler
from tests.bpf import mount_bpf_fs, unavailable
from tests.netns import backends
from tests.netns.cni_world import DEADLINE_S
from tests.netns.lan import Lan


@pytest.fixture(scope="session", autouse=True)
def each_source_compiled_once():
    """The same code each time, for a second of CPU."""
    compile_c = bpf_compiler.compile_c

    @functools.cache
    def compiled(compiler, source, names, places):
        return compile_c(source, names, dict(places))

    def of_this_compiler(source, names, places):
        return compiled(bpf_compiler._COMMAND, source, names, tuple(places.items()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpf_compiler, "compile_c", of_this_compiler)
        yield


@pytest.fixture(autouse=True)
def no_interface_stays():
    """The next test on this node would have its addresses too."""
    before = set(socket.if_nameindex())
    yield
    deadline = time.monotonic() + DEADLINE_S
    while left := set(socket.if_nameindex()) - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


@pytest.fixture
def lan():
    """A fresh bridge for one test."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root; tests/sandbox gives it")
    made = Lan()
    yield made
    made.close()


EBPF = pytest.param("ebpf", marks=pytest.mark.skipif(bool(unavailable()), reason=unavailable()))


@pytest.fixture(params=["nftables", EBPF])
def each_backend(request, monkeypatch):
    """The test runs once with each redirection; agents of ``cni_world`` are set to it."""
    if not unavailable():
        mount_bpf_fs()  # also where a test goes over from nftables
    monkeypatch.setattr(backends, "chosen", request.param)
    yield request.param
    backends.close()
