"""Redirects pods in tests that have no node agent, with the backend that the test runs with."""

from __future__ import annotations

from ambient.net.core.rules import Options
from ambient.net.io import bpf_programs
from ambient.net.io.netns import Netns
from cni_plugin.core.backend import Backend, Capture, Wish
from cni_plugin.io.redirection import Redirection
from cni_plugin.settings import Settings

chosen: Wish = "nftables"
"""See the fixture ``each_backend``."""

_open: list[Redirection] = []


def redirection() -> Redirection:
    """The one of this test."""
    if not _open:
        made = Redirection(Settings(node_name="node", redirection_backend=chosen))
        made.open(wanted=chosen != "nftables")
        _open.append(made)
    return _open[0]


def close() -> None:
    """The test has ended; nothing stays on the machine."""
    while _open:
        _open.pop().close()
    bpf_programs.remove_programs()


def admit(netns: Netns) -> None:
    """Before a tunnel listens in the pod."""
    if chosen != "nftables":
        redirection().admit(netns, Capture(Options(), chosen))


def enrol(netns: Netns, options: Options = Options()) -> None:  # noqa: B008 - it is frozen
    """New connections go to the tunnel."""
    choice = redirection().enrol(netns, Capture(options, chosen), ())
    assert choice.backend == Backend(chosen), choice.reason


def drain(netns: Netns) -> None:
    """New connections are direct."""
    redirection().drain(netns, Options())
