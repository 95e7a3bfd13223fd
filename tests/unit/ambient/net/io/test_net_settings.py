"""Settings of a network namespace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ambient.net.io import net_settings
from ambient.net.io.netns import Netns

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs a network namespace of its own"),
]

FORWARD = "ipv4/ip_forward"
ROOT = Path(__file__).parents[5]
WRITE = """
from ambient.net.io import net_settings
from ambient.net.io.netns import Netns
with Netns.current() as here:
    net_settings.write(here, {"ipv4/ip_forward": b"1"})
"""


@pytest.fixture
def other():
    """A namespace that is not this one."""
    subprocess.run(["ip", "netns", "add", "settings"], check=True)
    netns = Netns.open("/run/netns/settings")
    yield netns
    netns.close()
    subprocess.run(["ip", "netns", "del", "settings"], check=True)


def test_a_setting_belongs_to_one_namespace(other):
    here = net_settings.read_here(FORWARD)
    net_settings.write(other, {FORWARD: b"1"})
    assert other.run(net_settings.read_here, FORWARD) == b"1"
    net_settings.write(other, {FORWARD: b"0"})
    assert other.run(net_settings.read_here, FORWARD) == b"0"
    assert net_settings.read_here(FORWARD) == here


def test_what_is_read_only_for_a_container_is_written_all_the_same(other):
    script = (
        "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && "
        "! echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward && "
        f"exec {sys.executable} -c '{WRITE}'"
    )
    command = ["nsenter", "--net=/run/netns/settings", "unshare", "-m", "sh", "-c", script]
    subprocess.run(command, check=True, cwd=ROOT)
    assert other.run(net_settings.read_here, FORWARD) == b"1"


def test_settings_of_ipv6_may_be_missing_and_others_may_not(other):
    net_settings.write(other, {"ipv6/no_such_thing": b"1"})
    with pytest.raises(FileNotFoundError):
        net_settings.write(other, {"ipv4/no_such_thing": b"1"})
    with pytest.raises(FileNotFoundError):
        net_settings.read_here("ipv4/no_such_thing")
