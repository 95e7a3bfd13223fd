"""The log catalogue: every event that the mesh logs has one stable name.

Names are an API: dashboards, alerts and tests search for them. Values travel as fields, never
inside the name. Each package appends its lines here, below its own heading.
"""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """What happened, as ``part.what``."""

    # any program
    PROGRAM_STARTED = "program.started"
    PROGRAM_STOPPING = "program.stopping"
    PROGRAM_STOPPED = "program.stopped"
    PROGRAM_FAILED = "program.failed"
    PROGRAM_FORCED = "program.forced"
    FOREIGN_LOG = "foreign.log"
    HTTP_HANDLER_FAILED = "http.handler_failed"

    # connections; the first three are the access log, with upstream's wording
    CONN_OPENED = "connection opened"
    CONN_CLOSED = "connection complete"
    CONN_FAILED = "connection failed"
    POLICY_DENIED = "policy.denied"
    POLICY_DRY_RUN = "policy.dry_run"
    POLICY_REJUDGED = "policy.judged_again"

    # xDS
    XDS_CONNECTED = "xds.connected"
    XDS_SYNCED = "xds.synced"
    XDS_REJECTED = "xds.rejected"
    XDS_LOST = "xds.lost"

    # identity
    CERT_ISSUED = "cert.issued"
    CERT_FAILED = "cert.failed"
    ROOTS_CHANGED = "roots.changed"
    CRL_LOADED = "crl.loaded"
    CRL_ABSENT = "crl.absent"
    CRL_FAILED = "crl.failed"

    # ztunnel
    ZDS_CONNECTED = "zds.connected"
    ZDS_DISCONNECTED = "zds.disconnected"
    POD_JOINED = "pod.joined"
    POD_LEFT = "pod.left"
    POD_FAILED = "pod.failed"
    CONN_CRASHED = "conn.crashed"
    REQUEST_CRASHED = "request.crashed"
    CONN_RETRIED = "conn.retried"
    LOCAL_STATE_READ = "local_state.read"
    LOCAL_STATE_REFUSED = "local_state.refused"
    SPOOF_OFF = "source.not_preserved"
    DRAIN_STARTED = "drain.started"
    WORKER_STARTED = "worker.started"
    WORKER_ENDED = "worker.ended"
    TUNNEL_LOST = "tunnel.lost"
    DNS_ANSWERED = "dns.answered"
    DNS_FORWARDED = "dns.forwarded"
    DNS_FAILED = "dns.failed"
    DNS_REFUSED = "dns.refused"
    DNS_MALFORMED = "dns.malformed"
    DNS_NO_RESOLVER = "dns.no_resolver"
    DNS_CRASHED = "dns.crashed"

    # node agent
    POD_ENROLLED = "pod.enrolled"
    POD_UNENROLLED = "pod.unenrolled"
    POD_DRAINED = "pod.drained"
    POD_REPAIRED = "pod.repaired"
    POD_NOT_ELIGIBLE = "pod.not_eligible"
    PROBES_READY = "probes.ready"
    PROBES_MENDED = "probes.mended"
    PROBES_FAILED = "probes.failed"
    ENROL_FAILED = "enrol.failed"
    SOCKET_MAP_READY = "socket_map.ready"
    SOCKET_MAP_UNAVAILABLE = "socket_map.unavailable"
    BPF_READY = "bpf.ready"
    BPF_UNAVAILABLE = "bpf.unavailable"
    BACKEND_FELL_BACK = "backend.fell_back"
    LABEL_UNKNOWN = "label.unknown"
    OBJECT_UNREADABLE = "object.unreadable"
    CNI_INSTALLED = "cni.installed"
    CNI_WAITING = "cni.waiting"
    CNI_RIVAL = "cni.rival"
    CNI_PLATFORM = "cni.platform"
    GUEST_JOINED = "guest.joined"
    GUEST_VANISHED = "guest.vanished"
    GUEST_UNKNOWN = "guest.unknown"
    NODE_KEPT = "node.kept"
    NODE_CLEANED = "node.cleaned"
    NODE_NOT_CLEAN = "node.not_clean"
    KUBE_EVENT_FAILED = "kube_event.failed"
    ZDS_REFUSED = "zds.refused"
    ZDS_POD_REFUSED = "zds.pod_refused"

    # Kubernetes API
    KUBE_WATCH_RETRY = "kube.watch_retry"

    # control plane
    INDEX_SYNCED = "index.synced"
    INDEX_PUSHED = "index.pushed"
    OBJECT_REMARK = "object.remark"
    XDS_STREAM_OPENED = "xds.stream_opened"
    XDS_STREAM_CLOSED = "xds.stream_closed"
    XDS_NACK = "xds.nack"
    CALLER_REFUSED = "caller.refused"
    CERT_SIGNED = "cert.signed"
    CERT_REFUSED = "cert.refused"
    CA_READY = "ca.ready"
    CA_CHANGED = "ca.changed"
    CA_ROTATED = "ca.rotated"
    CA_REFUSED = "ca.refused"
    TRUSTED_ACCOUNTS = "ca.trusted_accounts"
    TOKEN_STALE = "caller.stale_token"
    API_SERVER_LOST = "api_server.lost"
    API_SERVER_BACK = "api_server.back"
    XDS_CLIENT_SLOW = "xds.client_slow"
    XDS_CLIENT_LIMITED = "xds.client_limited"
    CLUSTER_STATUS = "cluster.status"
    ADMISSION_REFUSED = "admission.refused"
    WEBHOOK_PATCHED = "webhook.patched"
    LEADER_ELECTED = "leader.elected"
    LEADER_LOST = "leader.lost"
    ROOT_PUBLISHED = "root.published"
    WAYPOINT_DEPLOYED = "waypoint.deployed"
    WAYPOINT_PROGRAMMED = "waypoint.programmed"
    WAYPOINT_PARAMETERS = "waypoint.parameters"
    STATUS_WRITTEN = "status.written"
    ADDRESSES_GIVEN = "addresses.given"
    CONTROLLER_RETRY = "controller.retry"

    # waypoint
    REQUEST_COMPLETE = "request complete"
    AUTHORIZER_FAILED = "authorizer.failed"
    RATE_LIMITER_FAILED = "rate_limiter.failed"
    SPANS_DROPPED = "spans.dropped"
    LOGS_DROPPED = "access_logs.dropped"
    ACCESS_LOG_FAILED = "access_log.failed"
    JWKS_FAILED = "jwks.failed"
    JWKS_FETCHED = "jwks.fetched"
    CONFIG_NOT_ENFORCED = "config.not_enforced"
    CONNECT_REFUSED = "connect.refused"
    ENDPOINT_EJECTED = "endpoint.ejected"
    WAYPOINT_LISTENING = "waypoint.listening"
