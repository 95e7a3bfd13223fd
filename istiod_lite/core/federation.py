"""Several clusters as one of them sees the others: global services, and ways to their endpoints.

Each cluster has an index of its own. Endpoints of another cluster in our network are told one by
one; those of another network as one workload for each service, reached through that network's
gateway by double HBONE. Policies and waypoints' objects are those of our cluster alone.
"""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from ambient.api.address import NetworkAddress
from ambient.api.config import ConfigObject
from ambient.api.credential import Credential
from ambient.api.policy import Authorization
from ambient.api.service import NamespacedHostname, Port, Service
from ambient.api.workload import TunnelProtocol, Workload, WorkloadStatus
from ambient.kube.core import objects
from istiod_lite.core import network_gateways
from istiod_lite.core.changes import Changes, Results
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.index import Index
from istiod_lite.core.inputs import Inputs

GATEWAY_PREFIX: Final = "NetworkGateway/"


class Federation:
    """Our own index with what follows from the others; read like an index."""

    def __init__(self, local: Index) -> None:
        self._local = local
        self._remotes: dict[str, Index] = {}
        self._members: dict[str, dict[NamespacedHostname, set[str]]] = {}
        """Workloads by service, for each other cluster."""
        self._services_of: dict[str, dict[str, tuple[NamespacedHostname, ...]]] = {}
        """What each workload of another cluster was behind when it was last looked at."""
        self._workloads = Results()
        self._services = Results()
        self._coalesced: dict[NamespacedHostname, set[str]] = {}
        self._told: dict[str, set[str]] = {}
        """Workloads of each other cluster that are told one by one."""
        self._scopes = local.facts.config.service_scope_configs
        self._ways: dict[str, Workload] = {}
        """The first gateway of each other network."""

    # As an index.

    @property
    def workloads(self) -> Mapping[str, Workload]:
        """By uid."""
        return ChainMap(self._workloads, dict_of(self._local.workloads))

    @property
    def services(self) -> Mapping[str, Service]:
        """By ``namespace/hostname``."""
        return ChainMap(self._services, dict_of(self._local.services))

    @property
    def authorizations(self) -> Mapping[str, Authorization]:
        """Ours."""
        return self._local.authorizations

    @property
    def inputs(self) -> Inputs:
        """Ours."""
        return self._local.inputs

    def configs_for_waypoint(self, namespace: str, name: str) -> dict[str, ConfigObject]:
        """Ours."""
        return self._local.configs_for_waypoint(namespace, name)

    def credentials_for_waypoint(self, namespace: str, name: str) -> Mapping[str, Credential]:
        """Ours."""
        return self._local.credentials_for_waypoint(namespace, name)

    @property
    def clusters(self) -> tuple[str, ...]:
        """The others."""
        return tuple(sorted(self._remotes))

    # Changes.

    def absorb(self, changes: Changes) -> Changes:
        """Ours, with what they change about others' services and endpoints."""
        if not self._remotes:
            return changes
        if self._is_wide(changes) or self._local.facts.config.service_scope_configs != self._scopes:
            names = self._refresh_all()
        else:
            names = self._refresh(self._services_in(self._local, changes))
        return msgspec.structs.replace(changes, addresses=changes.addresses | names)

    def join(self, cluster: str, index: Index) -> Changes:
        """Another cluster, complete."""
        self._remotes[cluster] = index
        self._members[cluster] = defaultdict(set)
        self._services_of[cluster] = {}
        self._note(cluster, index.workloads)
        return Changes(addresses=frozenset(self._refresh_all()))

    def leave(self, cluster: str) -> Changes:
        """A cluster that is not one of us any more."""
        if self._remotes.pop(cluster, None) is None:
            return Changes()
        keys = set(self._members.pop(cluster))
        del self._services_of[cluster]
        for uid in self._told.pop(cluster, set()):
            self._workloads.put(uid, None)
        return Changes(addresses=frozenset(self._refresh_all(keys)))

    def changed(self, cluster: str, changes: Changes) -> Changes:
        """What changes for our clients by changes of another cluster."""
        index = self._remotes.get(cluster)
        if index is None:
            return Changes()
        keys = self._note(cluster, changes.addresses)
        if self._is_wide(changes):
            return Changes(addresses=frozenset(self._refresh_all(keys)))
        for uid in changes.addresses:
            self._tell(cluster, index, uid)
        keys |= self._services_in(index, changes)
        return Changes(addresses=frozenset(self._refresh(keys)))

    @staticmethod
    def _is_wide(changes: Changes) -> bool:
        """Whether they may concern everything."""
        return bool(changes.namespaces or changes.gateways)

    def _services_in(self, index: Index, changes: Changes) -> set[NamespacedHostname]:
        """Those that changed in one cluster; of those that may have become global or local, others'
        endpoints are told again.
        """
        relabelled = {
            NamespacedHostname(key.namespace, index.facts.hostname(key))
            for key in changes.labelled_services
        }
        for cluster, other in self._remotes.items():
            for key in relabelled & self._members[cluster].keys():
                for uid in self._members[cluster][key]:
                    self._tell(cluster, other, uid)
        found = relabelled | {
            service.key
            for name in changes.addresses
            if (service := index.services.get(name)) is not None
        }
        return found | {key for key in self._merged_keys() if str(key) in changes.addresses}

    def _note(self, cluster: str, names: Iterable[str]) -> set[NamespacedHostname]:
        """Remember who is behind what; the services of those that are new, different or gone."""
        index, known = self._remotes[cluster], self._services_of[cluster]
        members, touched = self._members[cluster], set[NamespacedHostname]()
        for uid in names:
            workload = index.workloads.get(uid)
            before, after = known.pop(uid, ()), tuple(workload.services) if workload else ()
            if workload is not None:
                known[uid] = after
            for key in before:
                members[key].discard(uid)
            for key in after:
                members[key].add(uid)
            touched.update(before, after)
        return touched

    def _refresh_all(self, more: Iterable[NamespacedHostname] = ()) -> set[str]:
        """Everything again: a gateway, a network or what is global has changed."""
        self._scopes = self._local.facts.config.service_scope_configs
        self._look_for_ways()
        for cluster, index in self._remotes.items():
            for uid in {*index.workloads, *self._told.get(cluster, ())}:
                self._tell(cluster, index, uid)
        keys = {*more, *self._merged_keys()}
        for index in self._remotes.values():
            keys.update(one.key for one in index.services.values())
        return self._refresh(keys)

    def _refresh(self, keys: Iterable[NamespacedHostname]) -> set[str]:
        for key in keys:
            self._merge(key)
        return {*self._workloads.take_changes(), *self._services.take_changes()}

    def _merged_keys(self) -> set[NamespacedHostname]:
        return {*self._coalesced, *(one.key for one in self._services.values())}

    # Gateways.

    def _look_for_ways(self) -> None:
        found: dict[str, Workload] = {}
        for one in self._local.workloads.values():
            if one.uid.startswith(GATEWAY_PREFIX):
                found.setdefault(one.network, one)
        for index in (self._remotes[cluster] for cluster in self.clusters):
            facts = index.facts
            if facts.network in ("", self._local.facts.network):
                continue
            for gateway in sorted(index.inputs.gateways.values(), key=_age):
                way = network_gateways.east_west(gateway, facts)
                if way is not None:
                    found.setdefault(facts.network, way)
        for network in {*self._ways, *found}:
            old, new = self._ways.get(network), found.get(network)
            if old is not None and (new is None or old.uid != new.uid):
                self._workloads.put(old.uid, None)
            if new is not None and new.uid not in self._local.workloads:
                self._workloads.put(new.uid, new)
        self._ways = found

    # Workloads of other clusters in our network.

    def _tell(self, cluster: str, index: Index, uid: str) -> None:
        workload = index.workloads.get(uid)
        told = self._told.setdefault(cluster, set())
        near = workload is not None and workload.network == self._local.facts.network
        if workload is None or not near or uid.startswith(GATEWAY_PREFIX):
            told.discard(uid)
            self._workloads.put(uid, None)
            return
        services = {
            key: ports for key, ports in workload.services.items() if self._joined(key, index)
        }
        told.add(uid)
        self._workloads.put(uid, msgspec.structs.replace(workload, services=services))

    # Services.

    def _merge(self, key: NamespacedHostname) -> None:
        name = str(key)
        ours = self._local.services.get(name)
        theirs = [
            (index, index.services[name])
            for index in (self._remotes[cluster] for cluster in self.clusters)
            if name in index.services and self._joined(key, index)
        ]
        far = dict(self._far(key, [index for index, _ in theirs]))
        for uid in self._coalesced.pop(key, set()) - far.keys():
            self._workloads.put(uid, None)
        for uid, workload in far.items():
            self._workloads.put(uid, workload)
        if far:
            self._coalesced[key] = set(far)
        self._services.put(name, self._merged(key, ours, theirs) if theirs else None)

    def _merged(
        self, key: NamespacedHostname, ours: Service | None, theirs: list[tuple[Index, Service]]
    ) -> Service:
        base = ours or theirs[0][1]
        every = [base, *(service for _, service in theirs)]
        names = {name for service in every for name in service.subject_alt_names}
        for index, _ in theirs:
            if index.facts.network != self._local.facts.network:
                names |= {str(one.identity) for one in self._behind(key, index)}
        return msgspec.structs.replace(
            base,
            addresses=tuple(
                sorted({one for service in every for one in service.addresses}, key=_place)
            ),
            subject_alt_names=tuple(sorted(names)),
            waypoint=next((one.waypoint for one in every if one.waypoint is not None), None),
        )

    def _far(self, key: NamespacedHostname, indexes: list[Index]) -> Iterator[tuple[str, Workload]]:
        """One workload for each other network that has healthy endpoints and a gateway."""
        healthy: defaultdict[str, int] = defaultdict(int)
        first: dict[str, Index] = {}
        for index in indexes:
            network = index.facts.network
            if network == self._local.facts.network:
                continue
            first.setdefault(network, index)
            healthy[network] += sum(
                one.status is WorkloadStatus.HEALTHY for one in self._behind(key, index)
            )
        for network, count in healthy.items():
            way = self._ways.get(network)
            if way is None or not count:
                continue
            at = way.hostname or str(way.addresses[0])
            uid = f"{network}/SplitHorizonWorkload/{way.namespace}/{way.name}/{at}/{key}"
            service = first[network].services[str(key)]
            facts: MeshFacts = first[network].facts
            yield (
                uid,
                Workload(
                    uid=uid,
                    name=service.name,
                    namespace=service.namespace,
                    network=network,
                    tunnel_protocol=TunnelProtocol.HBONE,
                    trust_domain=facts.trust_domain,
                    canonical_name=service.name,
                    canonical_revision="latest",
                    workload_name=service.name,
                    cluster_id=facts.cluster_id,
                    network_gateway=network_gateways.way_to(way),
                    services={
                        key: tuple(
                            Port(one.service_port, one.service_port) for one in service.ports
                        )
                    },
                    capacity=count,
                ),
            )

    def _behind(self, key: NamespacedHostname, index: Index) -> Iterator[Workload]:
        cluster = index.facts.cluster_id
        for uid in self._members.get(cluster, {}).get(key, ()):
            workload = index.workloads.get(uid)
            if workload is not None:
                yield workload

    def _joined(self, key: NamespacedHostname, index: Index) -> bool:
        """Whether a service of another cluster is ours, too: global there, and not local here."""
        here = str(key) in self._local.services
        return self._is_global(key, index) and (not here or self._is_global(key, self._local))

    def _is_global(self, key: NamespacedHostname, index: Index) -> bool:
        ref = index.world.hosts.winner(key.namespace, key.hostname)
        if ref is None or ref.kind != "Service":
            return False
        service = index.inputs.services.get(ref.key)
        namespace = index.inputs.namespace_metadata(key.namespace)
        return service is not None and self._local.facts.config.is_global(
            namespace.labels if namespace is not None else None, service.metadata.labels
        )


def dict_of(table: Mapping[str, object]) -> dict[str, object]:
    """The table itself: an index keeps its results in dictionaries."""
    assert isinstance(table, dict)
    return table


def _age(gateway: objects.Gateway) -> tuple[str, str, str]:
    return gateway.metadata.age_order


def _place(address: NetworkAddress) -> tuple[str, int, int]:
    """An order of addresses of both families."""
    return address.network, address.ip.version, int(address.ip)
