"""A ztunnel's ``/config_dump`` as tables, as istioctl shows them (ztunnelconfig, configdump).

Lists of the dump may be arrays or mappings, so that upstream's ztunnels of all ages can be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ambient.api.errors import MeshError

Json = dict[str, Any]
NONE: Final = "None"


class Filters(NamedTuple):
    """Which rows are shown; empty shows all."""

    address: str = ""
    namespace: str = ""
    node: str = ""
    direction: str = ""
    pod: tuple[str, str] | None = None
    """Namespace and name: what concerns this pod only."""


class Dump:
    """One dump, and what its tables need to look up."""

    def __init__(self, raw: Any) -> None:
        if not isinstance(raw, dict) or "workloads" not in raw:
            raise MeshError("this is no configuration of a ztunnel", hint="give a /config_dump")
        self.raw: Json = raw
        self.workloads = list(_entries(raw.get("workloads")))
        self.services = list(_entries(raw.get("services")))
        self.policies = list(_entries(raw.get("policies")))
        self.certificates = list(_entries(raw.get("certificates")))
        self._services_by_vip = {
            _text(vip).partition("/")[2]: service
            for service in self.services
            for vip in service.get("vips") or ()
        }
        self._pods_by_ip = {
            _text(ip): one for one in self.workloads for ip in one.get("workloadIps") or ()
        }

    def pod(self, namespace: str, name: str) -> Json | None:
        """A workload by its name."""
        named = (one for one in self.workloads if one.get("namespace") == namespace)
        return next((one for one in named if one.get("name") == name), None)

    # Rows: one function a table.

    def workload_rows(self, how: Filters) -> Iterator[list[str]]:
        """NAMESPACE, POD NAME, ADDRESS, NODE, WAYPOINT, PROTOCOL."""
        for one in sorted(self.workloads, key=lambda w: (_of(w, "namespace"), _of(w, "name"))):
            ips = list(map(_text, one.get("workloadIps") or ()))
            if how.address and how.address not in ips:
                continue
            if not (_is(one, "namespace", how.namespace) and _is(one, "node", how.node)):
                continue
            if how.pod and how.pod != (one.get("namespace"), one.get("name")):
                continue
            address = ",".join(ips) or _of(one, "hostname")
            row = [_of(one, "namespace"), _of(one, "name"), address, _of(one, "node")]
            yield [*row, self.waypoint_name(one), _of(one, "protocol") or "TCP"]

    def service_rows(self, how: Filters) -> Iterator[list[str]]:
        """NAMESPACE, SERVICE NAME, SERVICE VIP, WAYPOINT, ENDPOINTS."""
        for one in sorted(self.services, key=lambda s: (_of(s, "namespace"), _of(s, "hostname"))):
            if not _is(one, "namespace", how.namespace):
                continue
            endpoints = list(_entries(one.get("endpoints")))
            uids = {self._uid(end) for end in endpoints}
            if how.pod and not any(
                (w.get("namespace"), w.get("name")) == how.pod and w.get("uid") in uids
                for w in self.workloads
            ):
                continue
            vips = [_text(vip).partition("/")[2] or _text(vip) for vip in one.get("vips") or ()]
            healthy = sum(1 for end in endpoints if self._healthy(end))
            name = _of(one, "name") or _of(one, "hostname")
            row = [_of(one, "namespace"), name, ",".join(vips) or NONE]
            yield [*row, self.waypoint_name(one), f"{healthy}/{len(endpoints)}"]

    def _uid(self, endpoint: Json) -> str:
        return _of(endpoint, "workloadUid")

    def _healthy(self, endpoint: Json) -> bool:
        uid = self._uid(endpoint)
        status = endpoint.get("status") or next(
            (one.get("status") for one in self.workloads if one.get("uid") == uid), None
        )
        return status in (None, "Healthy", "HEALTHY")

    def policy_rows(self, how: Filters) -> Iterator[list[str]]:
        """NAMESPACE, POLICY NAME, ACTION, SCOPE."""
        selected = self._policies_of(how.pod) if how.pod else None
        for one in sorted(self.policies, key=lambda p: (_of(p, "namespace"), _of(p, "name"))):
            if not _is(one, "namespace", how.namespace):
                continue
            key = f"{one.get('namespace')}/{one.get('name')}"
            if selected is not None and key not in selected and not self._wide(one, how.pod):
                continue
            action = _of(one, "action") + (" (dry run)" if one.get("dryRun") else "")
            yield [_of(one, "namespace"), _of(one, "name"), action, _of(one, "scope")]

    def _policies_of(self, pod: tuple[str, str] | None) -> set[str]:
        found = self.pod(*pod) if pod else None
        return set(found.get("authorizationPolicies") or ()) if found else set()

    @staticmethod
    def _wide(policy: Json, pod: tuple[str, str] | None) -> bool:
        scope = policy.get("scope")
        return scope == "Global" or (
            scope == "Namespace" and pod is not None and policy.get("namespace") == pod[0]
        )

    def certificate_rows(self, how: Filters) -> Iterator[list[str]]:
        """CERTIFICATE NAME, TYPE, STATUS, VALID CERT, SERIAL NUMBER, NOT AFTER, NOT BEFORE."""
        wanted = ""
        if how.pod and (pod := self.pod(*how.pod)):
            wanted = f"/ns/{pod.get('namespace')}/sa/{pod.get('serviceAccount') or 'default'}"
        for one in self.certificates:
            identity, state = _of(one, "identity"), _of(one, "state")
            if wanted and not identity.endswith(wanted):
                continue
            chain, roots = (
                list(_entries(one.get("certChain"))),
                list(_entries(one.get("rootCerts"))),
            )
            if not chain and not roots:
                yield [identity, "NA", state.partition(":")[0], "false", "NA", "NA", "NA"]
            for number, entry in enumerate([*chain, *roots]):
                kind = "Root" if number >= len(chain) else "Intermediate" if number else "Leaf"
                serial = _of(entry, "serialNumber")
                shown = f"{int(serial):x}" if serial.isdecimal() else serial
                times = [_of(entry, "expirationTime"), _of(entry, "validFrom")]
                yield [identity, kind, state, str(state == "Available").lower(), shown, *times]

    def connection_rows(self, how: Filters, *, raw: bool = False) -> Iterator[list[str]]:
        """WORKLOAD, DIRECTION, LOCAL, REMOTE, REMOTE TARGET, PROTOCOL."""
        states = self.raw.get("workloadState") or {}
        for uid in sorted(states):
            info = states[uid].get("info") or {}
            where, name = _of(info, "namespace"), _of(info, "name")
            if how.namespace and how.namespace != where:
                continue
            if how.pod and how.pod != (where, name):
                continue
            found = states[uid].get("connections") or {}
            for direction in ("inbound", "outbound"):
                if how.direction and how.direction != direction:
                    continue
                for one in found.get(direction) or ():
                    yield [
                        f"{name}.{where}",
                        direction.capitalize(),
                        *self._ends(one, direction, raw),
                    ]

    def _ends(self, one: Json, direction: str, raw: bool) -> list[str]:
        source, actual = _of(one, "src"), _of(one, "actualDst")
        target = _of(one, "originalDst")
        local, remote = (actual, source) if direction == "inbound" else (source, actual)
        ends = [end if raw else self.named(end) for end in (local, remote, target)]
        return [*ends, _of(one, "protocol")]

    # Names.

    def waypoint_name(self, one: Json) -> str:
        """``None``, ``NA`` where the waypoint is not known, or its service's name."""
        destination = (one.get("waypoint") or {}).get("destination")
        if destination is None:
            return NONE
        text = destination if isinstance(destination, str) else _of(destination, "hostname")
        if isinstance(destination, dict) and not text:
            text = _of(destination, "address") or _of(destination, "namespacedHostname")
        name = text.rpartition("/")[2]
        found = self._services_by_vip.get(name)
        if found is not None:
            return _of(found, "name") or "NA"
        known = next((s for s in self.services if s.get("hostname") == name), None)
        return _of(known, "name") if known is not None else name.partition(".")[0] or "NA"

    def named(self, end: str) -> str:
        """``address:port`` with the address's name instead, where it has one."""
        host, colon, port = end.rpartition(":")
        ip = host.strip("[]")
        if ip in self._services_by_vip:
            return f"{_of(self._services_by_vip[ip], 'hostname')}{colon}{port}"
        pod = self._pods_by_ip.get(ip)
        if pod is not None:
            return f"{_of(pod, 'name')}.{_of(pod, 'namespace')}{colon}{port}"
        return end


def merged(dumps: Iterable[Dump]) -> Json:
    """One raw dump of several ztunnels: each knows its own certificates and connections."""
    several = list(dumps)
    first = dict(several[0].raw)
    seen: dict[str, Any] = {}
    states: Json = {}
    for one in several:
        states |= one.raw.get("workloadState") or {}
        for certificate in one.certificates:
            seen.setdefault(_of(certificate, "identity"), certificate)
    return first | {"certificates": list(seen.values()), "workloadState": states}


def _entries(value: Any) -> Iterator[Json]:
    values = value.values() if isinstance(value, Mapping) else value or ()
    return (one for one in values if isinstance(one, dict))


def _of(one: Mapping[str, Any], key: str) -> str:
    value = one.get(key)
    return "" if value is None else _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _is(one: Json, key: str, wanted: str) -> bool:
    return not wanted or one.get(key) == wanted
