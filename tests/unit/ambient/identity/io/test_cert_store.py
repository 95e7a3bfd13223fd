"""Renewal, back-off and forgetting, over days that take no time."""

import datetime

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity
from ambient.identity.io.ca_client import CaError
from ambient.identity.io.cert_store import CertStore
from tests.fakes.ca_server import Authority

BASE = datetime.datetime.now(datetime.UTC).timestamp()
WEB = Identity("cluster.local", "shop", "web")
DAY = 86_400


def now() -> float:
    """The wall clock that goes with trio's mock clock."""
    return BASE + trio.current_time() - START[0]


START = [0.0]


class Ca:
    """Signs at the time of the mock clock; fails or waits when told to."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.asked: list[tuple[float, Identity]] = []
        self.failing = False
        self.open = trio.Event()
        self.open.set()
        self.busy = self.most_busy = 0

    async def sign(self, identity, csr_pem, *, impersonate, ttl_s):
        self.asked.append((now() - BASE, identity))
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            await self.open.wait()
        finally:
            self.busy -= 1
        if self.failing:
            raise CaError("the CA is away", hint="wait")
        csr = x509.load_pem_x509_csr(csr_pem)
        moment = datetime.datetime.fromtimestamp(now(), datetime.UTC)
        name = x509.UniformResourceIdentifier(str(identity))
        leaf = self.authority.issue(csr.public_key(), [name], ttl_s=ttl_s, now=moment)
        return [leaf.public_bytes(Encoding.PEM).decode(), self.authority.root_pem.decode()]

    @property
    def times(self) -> list[int]:
        return [round(when) for when, _ in self.asked]


@pytest.fixture
def ca():
    return Ca()


@pytest.fixture
async def store(ca, nursery):
    START[0] = trio.current_time()
    store = CertStore(ca, impersonate=True, ttl_s=DAY, now=now, jitter=lambda: 0.5)
    await nursery.start(store.run)
    return store


async def test_the_first_use_fetches_and_everybody_waits_for_the_same_one(
    ca, store, autojump_clock
):
    ca.open = trio.Event()
    found = []

    async def use():
        found.append(await store.svid(WEB))

    async with trio.open_nursery() as users:
        for _ in range(5):
            users.start_soon(use)
        await trio.testing.wait_all_tasks_blocked()
        assert found == []
        ca.open.set()
    assert len(ca.asked) == 1
    assert all(svid is found[0] for svid in found)


async def test_renewal_comes_after_half_of_the_life_and_replaces_the_old_one(
    ca, store, autojump_clock
):
    first = await store.svid(WEB)
    context = await store.server_context(WEB)
    await trio.sleep(0.5 * DAY)
    assert await store.svid(WEB) is first
    await trio.sleep(0.1 * DAY)
    assert await store.svid(WEB) is not first
    assert await store.server_context(WEB) is not context
    assert len(ca.asked) == 2
    assert ca.times[1] == pytest.approx(0.55 * DAY, abs=200)


async def test_while_renewals_fail_the_old_one_serves_until_it_expires(ca, store, autojump_clock):
    first = await store.svid(WEB)
    ca.failing = True
    await trio.sleep(0.9 * DAY)
    assert await store.svid(WEB) is first
    assert store.failing() == {WEB: "the CA is away"}
    await trio.sleep(0.2 * DAY)
    with pytest.raises(CaError, match="the CA is away") as caught:
        await store.svid(WEB)
    assert caught.value.hint == "wait"
    ca.failing = False
    await trio.sleep(200)
    assert await store.svid(WEB) is not first
    assert store.failing() == {}


async def test_failures_are_spaced_and_only_the_first_callers_wait_for_them(
    ca, store, autojump_clock
):
    ca.failing = True
    for _ in range(2):
        with pytest.raises(CaError):
            await store.svid(WEB)
        assert now() - BASE == pytest.approx(5)
    await trio.sleep(595)
    assert ca.times == [0, 1, 3, 7, 15, 31, 63, 127, 255, 405, 555]


async def test_pain_02_a_ca_that_comes_back_within_seconds_is_never_noticed(
    ca, store, autojump_clock
):
    ca.failing = True
    async with trio.open_nursery() as users:
        users.start_soon(store.svid, WEB)
        await trio.sleep(2)
        ca.failing = False
    assert ca.times == [0, 1, 3]


async def test_new_roots_are_fetched_for_everybody_at_once_without_a_gap(ca, store, autojump_clock):
    identities = [WEB._replace(service_account=f"sa-{number}") for number in range(8)]
    old = [await store.svid(identity) for identity in identities]
    await trio.sleep(60)
    store.renew_all()
    await trio.sleep(10)
    renewed = [await store.svid(one) for one in identities]
    assert not any(one in old for one in renewed)
    assert len(ca.asked) == 16


async def test_a_certificate_that_arrives_late_in_its_life_does_not_spin(
    ca, nursery, autojump_clock
):
    START[0] = trio.current_time()
    # Back-dated by as much as it lasts, so its half life has passed when it arrives.
    store = CertStore(ca, impersonate=True, ttl_s=60, now=now, jitter=lambda: 0.0)
    await nursery.start(store.run)
    await store.svid(WEB)
    await trio.sleep(60)
    assert len(ca.asked) <= 12


async def test_prefetches_run_a_few_at_a_time_and_a_caller_does_not_queue_behind_them(
    ca, store, autojump_clock
):
    ca.open = trio.Event()
    for number in range(20):
        store.prefetch(WEB._replace(service_account=f"sa-{number}"))
    await trio.testing.wait_all_tasks_blocked()
    assert ca.most_busy == 4
    async with trio.open_nursery() as users:
        users.start_soon(store.svid, WEB._replace(service_account="sa-19"))
        await trio.testing.wait_all_tasks_blocked()
        assert ca.asked[-1][1].service_account == "sa-19"
        ca.open.set()
    await trio.testing.wait_all_tasks_blocked()
    assert len({identity for _, identity in ca.asked}) == len(ca.asked) == 20


async def test_a_forgotten_identity_is_not_renewed_and_its_waiters_are_told(
    ca, store, autojump_clock
):
    ca.open = trio.Event()

    async def wait():
        with pytest.raises(MeshError, match="no longer needed"):
            await store.svid(WEB)

    async with trio.open_nursery() as users:
        users.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        store.forget(WEB)
    ca.open.set()
    await trio.sleep(2 * DAY)
    assert len(ca.asked) == 1
    store.forget(WEB)  # twice is harmless
    await store.svid(WEB)
    assert len(ca.asked) == 2


async def test_states_for_the_admin_page(ca, store, autojump_clock):
    svid = await store.svid(WEB)
    other = WEB._replace(service_account="other")
    ca.failing = True
    with pytest.raises(CaError):
        await store.svid(other)
    states = store.states()
    assert states[WEB] is svid
    assert isinstance(states[other], CaError)
