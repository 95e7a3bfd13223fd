"""The workloads of the mesh by uid, address and pod name."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TypeVar

from ambient.api.address import NetworkAddress
from ambient.api.workload import NetworkMode, TunnelProtocol, Workload

K = TypeVar("K", bound=Hashable)

POD_MARK = "//Pod/"
"""Inside the uid of every workload that is a pod (control plane: ``cluster//Pod/ns/name``)."""


class Workloads:
    """Look-ups answer the same whatever the order of the updates was."""

    def __init__(self) -> None:
        self._by_uid: dict[str, Workload] = {}
        self._by_address: dict[NetworkAddress, tuple[Workload, ...]] = {}
        self._by_name: dict[tuple[str, str], tuple[Workload, ...]] = {}

    def __iter__(self) -> Iterator[Workload]:
        return iter(self._by_uid.values())

    def __len__(self) -> int:
        return len(self._by_uid)

    def get(self, uid: str) -> Workload | None:
        """The workload of this uid."""
        return self._by_uid.get(uid)

    def put(self, workload: Workload) -> Workload | None:
        """Insert or replace; the replaced one comes back."""
        old = self.remove(workload.uid)
        self._by_uid[workload.uid] = workload
        for address in _indexed_addresses(workload):
            _add(self._by_address, address, workload)
        _add(self._by_name, (workload.namespace, workload.name), workload)
        return old

    def remove(self, uid: str) -> Workload | None:
        """Forget one; None where it was not known."""
        old = self._by_uid.pop(uid, None)
        if old is not None:
            for address in _indexed_addresses(old):
                _discard(self._by_address, address, old)
            _discard(self._by_name, (old.namespace, old.name), old)
        return old

    def at(self, address: NetworkAddress) -> tuple[Workload, ...]:
        """Every workload with this address, the likeliest owner first."""
        return self._by_address.get(address, ())

    def of_pod(self, namespace: str, name: str) -> tuple[Workload, ...]:
        """Every workload of this name, pods first."""
        return self._by_name.get((namespace, name), ())


def _indexed_addresses(workload: Workload) -> list[NetworkAddress]:
    # A host-network pod shares its address with the node and all its other host-network pods.
    if workload.network_mode is NetworkMode.HOST_NETWORK:
        return []
    return [NetworkAddress(workload.network, ip) for ip in dict.fromkeys(workload.addresses)]


def _rank(workload: Workload) -> tuple[int, str]:
    """Pods before entries, HBONE before plain TCP (ztunnel src/state/workload.rs), then by uid."""
    score = 2 * (POD_MARK in workload.uid)
    score += workload.tunnel_protocol is TunnelProtocol.HBONE
    return -score, workload.uid


def _add(index: dict[K, tuple[Workload, ...]], key: K, workload: Workload) -> None:
    index[key] = tuple(sorted((*index.get(key, ()), workload), key=_rank))


def _discard(index: dict[K, tuple[Workload, ...]], key: K, workload: Workload) -> None:
    rest = tuple(other for other in index.get(key, ()) if other.uid != workload.uid)
    if rest:
        index[key] = rest
    else:
        index.pop(key, None)
