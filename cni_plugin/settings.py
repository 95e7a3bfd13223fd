"""Every knob of the node agent; field ``node_name`` is the variable ``NODE_NAME``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ambient.net.io.bpf_flows import FOLDER
from cni_plugin.core.socket_map_wish import SocketMapWish

Port = Annotated[int, Meta(ge=0, le=65535)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The node agent's settings, with Istio's names where Istio has one."""

    node_name: Annotated[str, Meta(min_length=1)]
    """The node whose pods it looks after (downward API: spec.nodeName)."""
    kubeconfig: str | None = None
    """Without it: the pod's service account."""
    system_namespace: str = "istio-system"
    exclude_namespaces: tuple[str, ...] = ("kube-system",)
    """Comma-separated; pods of these never join, and start without asking."""
    cni_agent_run_dir: str = "/var/run/istio-cni"
    """Socket and pod records; the plugin must see it under the same path."""
    ztunnel_uds_address: str = "/var/run/ztunnel/ztunnel.sock"
    cni_net_dir: str = ""
    """Folder of the runtime's CNI configurations; empty: install nothing; ``auto``: as the node's
    distribution has it."""
    cni_bin_dir: str = ""
    """Put a starter of the plugin there; empty: the runtime finds ``ambient-cni`` by itself;
    ``auto``: as the node's distribution has it."""
    cni_plugin_runtime: str = ""
    """Folder with an interpreter for the plugin (the image has one at /opt/ambient-cni-runtime),
    which goes to the node beside it; empty: the node runs the plugin with the agent's own."""
    host_root: str = "/"
    """Where ``auto`` looks: the node's file system as the agent sees it."""
    istio_owned_cni_config: bool = False
    """Keep the chain in a file of our own, which a network plugin does not rewrite."""
    istio_owned_cni_config_filename: str = "02-istio-cni.conflist"
    """Must come before the network plugin's file in byte order."""
    daemonset_name: str = "istio-cni-node"
    """The agent's own, in the system namespace; when it is deleted, the node is cleaned up."""
    ambient_disable_safe_upgrade: bool = False
    """Clean the node up whenever the agent ends, also for an upgrade or a reboot."""
    if_agent_absent: Literal["fail", "start"] = "fail"
    """What pods do while the agent is away: ``fail`` (wait, tried again) or ``start`` unmeshed."""
    ambient_dns_capture: bool = False
    """Redirect DNS to the tunnel, which must then answer it."""
    ambient_ipv6: bool = True
    ambient_enable_aws_branch_eni_probe: bool = True
    """Keep probes of pods with AWS security groups of their own on the node."""
    redirection_backend: Literal["nftables", "ebpf", "auto"] = "nftables"
    """What redirects pods; ``auto`` and ``ebpf``: eBPF where the node can, else nftables."""
    bpf_dir: str = FOLDER
    """Where the eBPF redirection's programs and maps are kept; ztunnel must see it too."""
    socket_map: SocketMapWish = "off"
    """What an application and its tunnel say to each other goes by a socket map: ``send`` what the
    application sends, ``both`` what it receives, too."""
    proc_dir: str = "/proc"
    """Where the node's processes are seen."""
    allow_switch_to_host_ns: bool = False
    """The agent has a network namespace of its own: the node's is that of process 1."""
    repair: Literal["mend", "evict"] = "mend"
    """Pods of the mesh that were started without the plugin: ``mend`` redirects them as they run,
    ``evict`` has them start again, so that none of their connections was ever outside."""
    health_host: str = ""
    health_port: Port = 8000
    monitoring_host: str = ""
    monitoring_port: Port = 15014
    """``/metrics``; 0 takes any free port."""
