"""Pod UIDs in the cgroup paths of the container runtimes."""

from __future__ import annotations

import pytest

from cni_plugin.core.cgroup import pod_uid

UID = "2d7f1e5a-0c3b-4f6d-9a8e-1b2c3d4e5f60"
SYSTEMD = UID.replace("-", "_")
OTHER = UID.replace("2d7f1e5a", "ffffffff")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (f"0::/kubepods/burstable/pod{UID}/0123abcd\n", UID),
        (f"0::/kubepods.slice/kubepods-pod{SYSTEMD}.slice/cri-containerd-0123.scope\n", UID),
        (f"0::/kubepods-besteffort-pod{SYSTEMD}.slice:cri-containerd:0123\n", UID),
        (f"0::/docker/0123/kubelet/kubepods/pod{UID}/0123abcd\n", UID),
        (f"12:cpu,cpuacct:/kubepods/pod{UID}/0123\n11:memory:/kubepods/pod{UID}/0123\n", UID),
        (f"2:cpu:/kubepods/pod{UID}/01\n1:memory:/kubepods/pod{OTHER}/01\n", None),
        (f"0::/kubepods/pod{UID}/nested/pod{OTHER}/01\n", None),
        ("0::/user.slice/user-0.slice/session-1.scope\n", None),
        (f"0::/tripod{UID}/01\n", None),
        (f"0::/kubepods/pod{UID}0/01\n", None),
        ("not a cgroup file", None),
        ("", None),
    ],
)
def test_pod_uid(text: str, want: str | None) -> None:
    assert pod_uid(text) == want
