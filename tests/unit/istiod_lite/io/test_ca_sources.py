"""Authorities that change while the control plane runs, at a fake API server and in a folder."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
import trio

from ambient.api.errors import MeshError
from ambient.kube.io.client import KubeClient
from istiod_lite.core import plugged_in
from istiod_lite.core.rotation import Rules
from istiod_lite.io.ca_source import open_source
from istiod_lite.io.ca_store import SelfSigned
from istiod_lite.io.issuer import Issuer
from istiod_lite.io.metrics import Metrics
from istiod_lite.io.plugged_in import Folder, FromSecret
from istiod_lite.io.trusted_accounts import TrustedAccounts
from istiod_lite.settings import Settings
from tests.fakes.kube_api import FakeKubeApi
from tests.unit.istiod_lite.core.authorities import Ca, cacerts

SECRETS, DAEMON_SETS = "/api/v1/secrets", "/apis/apps/v1/daemonsets"
SYSTEM = "istio-system"
DAY = timedelta(days=1)


@pytest.fixture
async def kube(tmp_path):
    async with (
        FakeKubeApi().serving() as api,
        KubeClient.connect(api.kubeconfig(tmp_path)) as kube,
    ):
        kube.api = api
        yield kube


def secret(files, name="cacerts"):
    data = {key: base64.b64encode(value).decode() for key, value in files.items()}
    return {"metadata": {"name": name, "namespace": SYSTEM}, "data": data}


class Watched(Issuer):
    """An issuer whose changes can be awaited."""

    def __init__(self, authority):
        super().__init__(authority, Metrics())
        self.sender, self.changes = trio.open_memory_channel(100)
        self.changed.append(lambda: self.sender.send_nowait(self.authority))

    async def next(self):
        with trio.fail_after(30):
            return await self.changes.receive()


async def test_a_replica_follows_the_rotation_that_the_leader_does(kube, nursery):
    clock = [datetime.now(UTC)]
    first, second = (
        SelfSigned(
            kube,
            SYSTEM,
            "cluster.local",
            rules=Rules(0.2, 10 * DAY),
            root_ttl=100 * DAY,
            now=lambda: clock[0],
        )
        for _ in range(2)
    )
    leader, follower = Watched(await first.load()), Watched(await second.load())
    assert leader.roots_pem == follower.roots_pem
    old = leader.authority.certificate
    nursery.start_soon(first.follow, leader)
    nursery.start_soon(second.follow, follower)
    clock[0] += 81 * DAY
    nursery.start_soon(first.lead)
    announced = await follower.next()
    assert announced.certificate == old
    assert len(announced.roots) == 2
    assert (await leader.next()).roots_pem == announced.roots_pem
    for days, roots in ((10, 2), (10, 1)):
        clock[0] += days * DAY
        # What wakes the leader is any write of the Secret, or its own hourly look.
        kube.api.put(SECRETS, kube.api.get(SECRETS, SYSTEM, "istio-ca-secret"))
        changed = await follower.next()
        assert changed.certificate != old
        assert len(changed.roots) == roots
    nursery.cancel_scope.cancel()


async def test_two_that_start_at_once_end_with_one_root(kube):
    found = []

    async def load():
        source = SelfSigned(kube, SYSTEM, "cluster.local")
        found.append((await source.load()).roots_pem)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(load)
    assert len(set(found)) == 1


async def test_a_broken_or_deleted_secret_does_not_stop_signing(kube, nursery):
    source = SelfSigned(kube, SYSTEM, "cluster.local")
    issuer = Watched(await source.load())
    good = kube.api.get(SECRETS, SYSTEM, "istio-ca-secret")
    nursery.start_soon(source.follow, issuer)
    kube.api.put(SECRETS, {**good, "data": {"ca-cert.pem": "nonsense"}})
    kube.api.remove(SECRETS, SYSTEM, "istio-ca-secret")
    new = Ca(now=datetime.now(UTC))
    files = {"ca-cert.pem": new.pem, "ca-key.pem": new.key_pem, "root-cert.pem": new.pem}
    kube.api.put(SECRETS, secret(files, "istio-ca-secret"))
    assert (await issuer.next()).certificate == new.certificate
    nursery.cancel_scope.cancel()


ROOT, OTHER = Ca("root", now=datetime.now(UTC)), Ca("other", now=datetime.now(UTC))
FIRST, SECOND = ROOT.below("first"), ROOT.below("second")


async def test_a_plugged_in_secret_wins_and_its_new_signer_is_taken(kube, nursery, tmp_path):
    kube.api.put(SECRETS, secret(cacerts(ROOT, FIRST)))
    settings = Settings(root_ca_dir=str(tmp_path / "nowhere"))
    source, authority = await open_source(kube, settings)
    assert isinstance(source, FromSecret)
    assert kube.api.get(SECRETS, SYSTEM, "istio-ca-secret") is None
    issuer = Watched(authority)
    nursery.start_soon(source.follow, issuer)
    # Another root is refused, a new signer below the same root is not.
    kube.api.put(SECRETS, secret(cacerts(OTHER, OTHER.below("x"))))
    kube.api.put(SECRETS, secret(cacerts(ROOT, SECOND, crl=SECOND.crl())))
    changed = await issuer.next()
    assert changed.certificate == SECOND.certificate
    assert issuer.crl_pem
    nursery.cancel_scope.cancel()


async def test_an_incomplete_plugged_in_secret_ends_the_start(kube, tmp_path):
    files = cacerts(ROOT, FIRST)
    del files["ca-key.pem"]
    kube.api.put(SECRETS, secret(files))
    with pytest.raises(MeshError, match=r"there is no ca-key\.pem") as caught:
        await open_source(kube, Settings(root_ca_dir=str(tmp_path / "nowhere")))
    assert "remove Secret istio-system/cacerts" in caught.value.hint


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)


async def test_a_folder_is_read_again_when_it_changes(nursery, tmp_path):
    write(tmp_path, cacerts(ROOT, FIRST))
    folder = Folder(tmp_path, multi_root=True, poll_s=0.05)
    issuer = Watched(await folder.load())
    nursery.start_soon(folder.follow, issuer)
    # In the steps that keep everybody's trust: add a root, change the signer, drop the old root.
    other = OTHER.below("signer")
    for files, roots in (
        (cacerts(ROOT, FIRST, more_roots=[OTHER]), 2),
        (cacerts(ROOT, other, more_roots=[OTHER]), 2),
        (cacerts(OTHER, other), 1),
    ):
        write(tmp_path, files)
        authority = await issuer.next()
        assert len(authority.roots) == roots
    assert authority.certificate == other.certificate
    nursery.cancel_scope.cancel()


async def test_an_empty_folder_is_no_plugged_in_authority(tmp_path):
    assert await Folder(tmp_path, multi_root=False).load() is None
    (tmp_path / plugged_in.ISTIO_FILES[0]).write_bytes(b"x")
    with pytest.raises(MeshError, match="incomplete"):
        await Folder(tmp_path, multi_root=False).load()


def daemon_set(name, account, label="ztunnel"):
    return {
        "metadata": {"name": name, "namespace": SYSTEM, "labels": {"app": label}},
        "spec": {"template": {"spec": {"serviceAccountName": account}}},
    }


async def test_pain_33_the_trusted_account_is_the_tunnels_own(kube, nursery):
    accounts = TrustedAccounts(kube, SYSTEM, ())
    assert accounts.current == {"istio-system/ztunnel"}
    kube.api.put(DAEMON_SETS, daemon_set("other", "admin", label="other"))
    kube.api.put(DAEMON_SETS, daemon_set("zt", "node-tunnel"))
    nursery.start_soon(accounts.run)
    with trio.fail_after(30):
        while accounts.current != {"istio-system/node-tunnel"}:
            await trio.sleep(0.01)
        kube.api.remove(DAEMON_SETS, SYSTEM, "zt")
        while accounts.current != {"istio-system/ztunnel"}:
            await trio.sleep(0.01)
    fixed = TrustedAccounts(kube, SYSTEM, {"a/b"})
    await fixed.run()
    assert fixed.current == {"a/b"}
    nursery.cancel_scope.cancel()
