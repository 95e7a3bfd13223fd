"""What the tunnel's own pod listens on; the rest in tests/netns/test_ztunnel_dedicated.py."""

import os

from ambient.net.io.netns import OwnNetns


def test_our_own_namespace_needs_no_visit():
    with OwnNetns.open_own() as own:
        assert own.run(os.getpid) == os.getpid()
        assert own.key == (os.stat("/proc/self/ns/net").st_dev, os.stat("/proc/self/ns/net").st_ino)
