"""Fixtures of the tests in network namespaces."""

import os

import pytest

from tests.bpf import mount_bpf_fs, unavailable
from tests.netns import backends
from tests.netns.lan import Lan


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
