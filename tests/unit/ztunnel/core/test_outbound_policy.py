"""What the mesh configuration says of unknown destinations."""

from __future__ import annotations

import pytest

from ztunnel.core.outbound_policy import OutboundPolicyError, read


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", False),
        ("accessLogFile: /dev/stdout", False),
        ("outboundTrafficPolicy: {}", False),
        ("outboundTrafficPolicy: {mode: ALLOW_ANY}", False),
        ("outboundTrafficPolicy:\n  mode: REGISTRY_ONLY\n", True),
        ("# outboundTrafficPolicy: {mode: REGISTRY_ONLY}", False),
        ("- outboundTrafficPolicy", False),
        ("outboundTrafficPolicy: REGISTRY_ONLY", False),
    ],
)
def test_modes(text, wanted):
    assert read(text.encode()) is wanted


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"outboundTrafficPolicy: {mode: registry_only}", "'registry_only' is unknown"),
        (b"outboundTrafficPolicy: {mode", "no YAML"),
        (b"outboundTrafficPolicy: \xff\xfe", "no YAML"),
    ],
)
def test_what_cannot_be_read_says_so(content, reason):
    with pytest.raises(OutboundPolicyError, match=reason) as caught:
        read(content)
    assert caught.value.hint
