"""The page of settings, from the ``settings.py`` of each program."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

import cni_plugin.settings
import istiod_lite.settings
import waypoint.settings
import ztunnel.settings

PROGRAMS: Final = {
    "ztunnel": ztunnel.settings,
    "waypoint": waypoint.settings,
    "istiod-lite": istiod_lite.settings,
    "ambient-cni-agent": cni_plugin.settings,
}
HEAD: Final = """# Settings

Environment variables of the programs, made from their `settings.py` (`make reference`). Names are Istio's where Istio has the
setting. Seconds may also be written as `1m30s` or `500ms`; lists are separated by commas. A value that cannot be used ends
the start with the variable, the value and what was expected. On a cluster they are set by `ztunnel.env`, `istiod.env` and
`cni.env` of the [values](../install.md#values).

Every program also reads `LOG_LEVEL` (`info`; also by scope: `info,access=warn`) and `LOG_FORMAT` (`plain` or `json`).
"""
COMMON: Final = {
    "alt_ca_hostname": "One more name that the certificate of the authority may carry.",
    "alt_xds_hostname": "One more name that the control plane's certificate may carry.",
    "ambient_ipv6": "Redirect IPv6, too.",
    "bind_address": "Address of all listeners.",
    "ca_address": "The certificate authority.",
    "ca_headers": "The same for the certificate authority.",
    "ca_root_ca": "File with the roots of the certificate authority's server.",
    "citadel_self_signed_ca_cert_ttl_s": "Life of a self-signed root.",
    "cluster_domain": "The cluster's DNS domain.",
    "cluster_id": "How this cluster is called.",
    "default_workload_cert_ttl_s": "Life of a certificate where the request does not say.",
    "health_host": "Address of the health endpoint; empty: all.",
    "health_port": "`/healthz`, `/readyz`, `/status`.",
    "hbone_port": "HBONE.",
    "http_port": "`/ready`, `/debug`, the web page.",
    "instance_ip": "Our own address (downward API: status.podIP).",
    "keepalive_enabled": "TCP keep-alive on connections between nodes.",
    "keepalive_interval_s": "Between two probes.",
    "keepalive_retries": "Probes without an answer that end a connection.",
    "keepalive_time_s": "Silence before the first probe.",
    "monitoring_host": "Address of `/metrics`; empty: all.",
    "monitoring_port": "`/metrics`, and `/debug`.",
    "network": "The network of this cluster; empty: the only one.",
    "node_name": "Our node (downward API: spec.nodeName).",
    "pilot_enable_k8s_select_workload_entries": "Services select WorkloadEntries, too.",
    "pilot_enable_serviceentry_select_pods": "ServiceEntries select pods, too.",
    "pod_name": "Our own pod (downward API: metadata.name).",
    "pod_namespace": "Its namespace (downward API: metadata.namespace).",
    "pool_max_streams_per_connection": "Connections that share a tunnel.",
    "pool_unused_release_timeout_s": "How long a tunnel without connections is kept.",
    "readiness_port": "`/healthz/ready`.",
    "secret_ttl_s": "Life of the certificates that we ask for.",
    "service_account": "Our own service account.",
    "stats_port": "Prometheus metrics.",
    "system_namespace": "The mesh's own; its pods start while the agent is away.",
    "trust_domain": "First part of every identity.",
    "waypoint_command": "What a waypoint's container runs.",
    "waypoint_image": "The image of waypoints.",
    "xds_address": "The control plane.",
    "xds_plaintext_port": "xDS without TLS.",
    "xds_port": "xDS and certificates over TLS.",
    "xds_root_ca": "File with the roots of the control plane's certificate.",
    "ztunnel_uds_address": "The socket to which ztunnel connects.",
}
"""What the name nearly says; other settings are described where they are declared."""


class Setting(NamedTuple):
    name: str
    variable: str
    default: str
    meaning: str


def page() -> str:
    """The whole page."""
    return HEAD + "".join(
        f"\n## {program}\n\n| variable | default | meaning |\n| --- | --- | --- |\n"
        + "".join(
            f"| `{one.variable}` | {one.default} | {one.meaning} |\n" for one in settings(module)
        )
        for program, module in PROGRAMS.items()
    )


def settings(module: Any) -> Iterator[Setting]:
    """Every knob, in the order in which they are declared. Raises KeyError for one without words."""
    words = _docstrings(module.Settings)
    for field in msgspec.structs.fields(module.Settings):
        renamed = field.encode_name != field.name
        variable = field.encode_name if renamed else field.name.upper()
        meaning = words.get(field.name) or COMMON[field.name]
        yield Setting(field.name, variable, _default(field), _inline(meaning))


def _docstrings(settings: type) -> Mapping[str, str]:
    (tree,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for here, behind in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(here, ast.AnnAssign)
            and isinstance(here.target, ast.Name)
            and isinstance(behind, ast.Expr)
            and isinstance(behind.value, ast.Constant)
        ):
            found[here.target.id] = " ".join(str(behind.value.value).split())
    return found


def _default(field: Any) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None or value == "" or (not value and isinstance(value, (tuple, frozenset, dict))):
        return ""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | frozenset):
        return f"`{','.join(sorted(value))}`"
    if isinstance(value, float) and field.name.endswith("_s"):
        return f"`{value:.15g}s`"
    return f"`{value}`"


def _inline(text: str) -> str:
    """reStructuredText's literals as Markdown's, safe in a table."""
    parts = text.replace("``", "`").replace("|", "\\|").split("`")
    return "`".join(
        part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts)
    )
