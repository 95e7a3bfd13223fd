"""The page of ports, from ``ambient/api/ports.py`` and from the settings."""

from __future__ import annotations

import msgspec

from ambient.api import ports
from docs.reference.settings import PROGRAMS, settings

HEAD = """# Ports

Made from the code (`make reference`). Ports with a variable can be moved ([settings](settings.md)); the others are part of
what Istio's ambient mode is, and are the same everywhere.

## Inside every pod of the mesh

A node's tunnel listens in the network namespace of each pod, so that nothing of this is on the node itself. Applications
cannot use these ports.

| port | protocol | what |
| --- | --- | --- |
"""
POD = (
    (ports.OUTBOUND_PORT, "TCP", "what the application's connections are redirected to"),
    (ports.PLAINTEXT_PORT, "TCP", "what connections without HBONE are redirected to"),
    (ports.HBONE_PORT, "TCP", "HBONE: mutual TLS 1.3, HTTP/2, CONNECT. **NetworkPolicies must let it in**"),
    (ports.DNS_PORT, "UDP, TCP", "what DNS queries are redirected to; on the loopback only"),
    (ports.SOCKS_PORT, "TCP", "SOCKS 5 on the loopback, where `UNSTABLE_ENABLE_SOCKS5` is on"),
)  # fmt: skip
MIDDLE = """
## Of the programs

| program | port | variable | what |
| --- | --- | --- | --- |
"""
FOOT = f"""
Waypoints and tunnels take HBONE from everybody of the mesh; `admin` ports listen on the pod's loopback, and `ambientctl`
reaches them through the API server. The kubelet's probes arrive from {ports.PROBE_SOURCE_V4} (IPv6:
`{ports.PROBE_SOURCE_V6}`); NetworkPolicies must let that in, too. `ambientctl check` looks for policies that do not.
"""


def page() -> str:
    """The whole page."""
    pods = "".join(f"| {port} | {protocol} | {what} |\n" for port, protocol, what in POD)
    rows = "".join(
        f"| `{program}` | {_number(module, one.name)} | `{one.variable}` | {one.meaning} |\n"
        for program, module in PROGRAMS.items()
        for one in settings(module)
        if one.name.endswith("_port")
    )
    return HEAD + pods + MIDDLE + rows + FOOT


def _number(module: object, name: str) -> int:
    fields = msgspec.structs.fields(module.Settings)  # type: ignore[attr-defined]
    (number,) = (field.default for field in fields if field.name == name)
    assert isinstance(number, int)
    return number
