"""What ``check`` judges by, gathered at once; what could not be had is an error in its place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.api.ports import ADMIN_PORT, CONTROL_HTTP_PORT
from ambient.kube.core import resources
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.resources import KubeObject, Resource
from ambient.kube.io.client import KubeClient
from ambientctl.analyze.reading import Reading, read_cluster
from ambientctl.check.clocks import Told, ahead
from ambientctl.check.probing import Probing, probe_all
from ambientctl.control_plane import SELECTOR as ISTIOD
from ambientctl.control_plane import Proxy, proxies
from ambientctl.reach import TUNNELS, PodPort, ask_dated, decoded, port_of, running_pods
from ambientctl.ztunnel_config.dump import Dump

T = TypeVar("T")
AGENT: Final = "k8s-app=istio-cni-node"
AGENT_PORT: Final = 8000
ANSWER_S: Final = 5.0
"""A program that says nothing for so long is not well."""
DUMP_S: Final = 20.0
"""Of a tunnel that knows 10,000 pods."""
ACCESS_REVIEWS: Final = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview",
    namespaced=False,
)  # fmt: skip
FELIX: Final = Resource(
    "crd.projectcalico.org", "v1", "felixconfigurations", "FelixConfiguration", namespaced=False
)


NONE: Final = timedelta()
FORBIDDEN: Final = 403


class Facts(msgspec.Struct, kw_only=True):
    """One cluster at one moment."""

    now: datetime
    """By the clock of this machine."""
    system: str
    server: str = ""
    server_version: str = ""
    server_clock: Told | None = None
    reading: Reading
    access: dict[str, bool] = {}
    """``verb resource`` to whether we may."""
    leases: list[KubeObject] = []
    """Of nodes, renewed every few seconds by their own clocks."""
    cilium: dict[str, str] | None = None
    calico: list[KubeObject] = []
    istiods: dict[str, str | MeshError] = {}
    """Pod to what ``/ready`` says."""
    proxies: list[Proxy] | MeshError = []
    tunnels: dict[str, Dump | MeshError] = {}
    """ztunnel pod to its configuration."""
    agents: dict[str, str | MeshError] = {}
    """Node agent's pod to what ``/readyz`` says."""
    nodes_of: dict[str, str] = {}
    """Pod to its node."""
    clocks: dict[str, Told] = {}
    """Pod to the clock of the program in it."""
    probing: Probing | None = None
    """What tunnels reached; None where nobody tried."""

    def now_at(self, pod: str) -> datetime:
        """By the clock of the program in a pod; by the API server's where it tells none."""
        if self.server_clock is None:
            return self.now
        told = self.clocks.get(pod)
        return self.server_clock.moment + (ahead(told, self.server_clock) if told else NONE)

    @property
    def server_time(self) -> datetime | None:
        """By the API server's clock."""
        return self.server_clock.moment if self.server_clock else None


_APPLIED: Final = (
    ("", "namespaces"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("", "configmaps"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("gateway.networking.k8s.io", "gatewayclasses"),
    ("policy", "poddisruptionbudgets"),
    ("autoscaling", "horizontalpodautoscalers"),
)
WANTED: Final = tuple((verb, *one) for one in _APPLIED for verb in ("create", "patch"))
"""What an installation does: to apply what is not there yet takes both rights."""
LOOKING: Final = (("create", "", "pods/portforward"), ("list", "", "pods"))
"""What the other commands need."""


async def gather(kube: KubeClient, system: str, *, before: bool, probe: bool = False) -> Facts:
    """All facts; ``probe``: also by connections between pods.

    Raises UnavailableError where the API server is away, or SettingsError.
    """
    version, clock = await server(kube)
    facts = Facts(
        now=datetime.now(UTC),
        system=system,
        server=kube.server,
        server_version=version,
        server_clock=clock,
        reading=await read_cluster(kube, system),
    )
    async with trio.open_nursery() as nursery:
        for one in WANTED if before else LOOKING:
            nursery.start_soon(_may, kube, facts, one)
        nursery.start_soon(_leases, kube, facts)
        nursery.start_soon(_plugins, kube, facts)
        if not before:
            nursery.start_soon(_istiods, kube, facts)
            nursery.start_soon(_tunnels, kube, facts)
            nursery.start_soon(_agents, kube, facts)
    if probe and not before:
        facts.probing = await probe_all(kube, system, facts.tunnels, facts.nodes_of)
    return facts


async def server(kube: KubeClient) -> tuple[str, Told | None]:
    """The API server's version, and its clock where it tells it."""
    before = datetime.now(UTC)
    body, headers = await kube.get_with_headers("/version")
    return str(body.get("gitVersion", "")), told_by(headers.get("date", ""), before)


def told_by(date: str, before: datetime) -> Told | None:
    """The clock in an answer that has just come; None where there is none, or no date."""
    after = datetime.now(UTC)
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    return Told(moment, before, after) if moment.tzinfo else None


async def _ask_dated(
    kube: KubeClient, facts: Facts, at: PodPort, path: str, limit_s: float
) -> bytes:
    """An answer; the clock in it is noted."""
    before = datetime.now(UTC)
    body, date = await ask_dated(kube, at, path, limit_s=limit_s)
    told = told_by(date, before)
    if told is not None:
        facts.clocks[at.pod] = told
    return body


async def _may(kube: KubeClient, facts: Facts, wanted: tuple[str, str, str]) -> None:
    verb, group, resource = wanted
    plural, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": plural}
    if subresource:
        attributes |= {"subresource": subresource, "namespace": facts.system}
    body = {"metadata": {}, "spec": {"resourceAttributes": attributes}}
    try:
        answer = await kube.create(ACCESS_REVIEWS, body)
    except KubeError:
        return  # whoever may not even ask finds out by doing
    name = f"{verb} {resource}{f'.{group}' if group else ''}"
    facts.access[name] = (answer.get("status") or {}).get("allowed") is True


async def _optional(read: Callable[[], Awaitable[T]], default: T) -> T:
    try:
        return await read()
    except KubeError:
        return default


async def _leases(kube: KubeClient, facts: Facts) -> None:
    facts.leases = await _optional(lambda: kube.list(resources.LEASES, "kube-node-lease"), [])


async def _plugins(kube: KubeClient, facts: Facts) -> None:
    for namespace in ("kube-system", "cilium"):
        try:
            found = await kube.get(resources.CONFIG_MAPS, "cilium-config", namespace)
        except (NotFound, KubeError):
            continue
        facts.cilium = dict(found.get("data") or {})
    facts.calico = await _optional(lambda: kube.list(FELIX), [])


async def _istiods(kube: KubeClient, facts: Facts) -> None:
    await _ask_all(kube, facts, ISTIOD, (CONTROL_HTTP_PORT, "/ready"), facts.istiods)
    try:
        facts.proxies = await proxies(kube, facts.system)
    except MeshError as error:
        facts.proxies = error


async def _agents(kube: KubeClient, facts: Facts) -> None:
    await _ask_all(kube, facts, AGENT, (AGENT_PORT, "/readyz"), facts.agents)


async def _ask_all(
    kube: KubeClient,
    facts: Facts,
    selector: str,
    page: tuple[int, str],
    into: dict[str, str | MeshError],
) -> None:
    async def read(pod: KubeObject) -> None:
        at = port_of(pod, page[0])
        facts.nodes_of[at.pod] = str(pod["spec"].get("nodeName") or "")
        try:
            body = await _ask_dated(kube, facts, at, page[1], ANSWER_S)
            into[at.pod] = body.decode(errors="replace").strip()
        except MeshError as error:
            into[at.pod] = error

    async with trio.open_nursery() as nursery:
        for pod in await _pods(kube, facts.system, selector):
            nursery.start_soon(read, pod)


async def _pods(kube: KubeClient, system: str, selector: str) -> list[KubeObject]:
    """Running ones; none where we may not list them, which the line about permissions says."""
    try:
        return await running_pods(kube, system, selector)
    except KubeError as error:
        if error.status != FORBIDDEN:
            raise
        return []


async def _tunnels(kube: KubeClient, facts: Facts) -> None:
    async def read(pod: KubeObject) -> None:
        at = port_of(pod, ADMIN_PORT)
        facts.nodes_of[at.pod] = str(pod["spec"].get("nodeName") or "")
        try:
            body = await _ask_dated(kube, facts, at, "/config_dump", DUMP_S)
            facts.tunnels[at.pod] = Dump(decoded(body, at, "/config_dump"))
        except MeshError as error:
            facts.tunnels[at.pod] = error

    async with trio.open_nursery() as nursery:
        for pod in await _pods(kube, facts.system, TUNNELS):
            nursery.start_soon(read, pod)


def of_kind(facts: Facts, kind: str) -> list[KubeObject]:
    """Objects of the reading."""
    return [item.obj for item in facts.reading.items if item.ref.kind == kind]


def named(facts: Facts, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
    """One of them."""
    for item in facts.reading.items:
        if item.ref.kind == kind and item.ref.key == (namespace, name):
            return item.obj
    return None
