"""Certificates from a folder, through the store that everybody uses."""

import pytest
import trio

from ambient.api.spiffe import Identity
from ambient.identity.core.svid import SvidError
from ambient.identity.io import cert_store
from ambient.identity.io.cert_files import CertFiles
from tests.fakes.certs import TestCa

WEB = Identity("cluster.local", "shop", "web")
CA = TestCa()


@pytest.fixture
def folder(tmp_path):
    own = tmp_path / "shop" / "web"
    own.mkdir(parents=True)
    return own


def put(folder, issued):
    for name, content in (
        ("cert-chain.pem", issued.chain),
        ("key.pem", issued.key),
        ("root-cert.pem", issued.roots),
    ):
        (folder / name).write_bytes(content)


@pytest.fixture
async def store(tmp_path, monkeypatch):
    monkeypatch.setattr(cert_store, "HOLD_S", 0.0)
    async with trio.open_nursery() as nursery:
        made = CertFiles(str(tmp_path))
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_the_files_of_an_identity(store, folder):
    put(folder, CA.issue(WEB))
    svid = await store.svid(WEB)
    assert svid.identity == WEB
    assert await store.client_context(WEB)


async def test_what_is_missing_is_named(store, folder):
    with pytest.raises(SvidError, match=r"shop/web/key\.pem: No such file") as missing:
        await store.svid(WEB)
    assert str(folder) in missing.value.hint


async def test_another_identity_is_not_taken(store, folder):
    put(folder, CA.issue(WEB._replace(service_account="other")))
    with pytest.raises(SvidError, match="sa/other"):
        await store.svid(WEB)


async def test_what_is_no_key_is_told(store, folder):
    put(folder, CA.issue(WEB))
    (folder / "key.pem").write_text("no key")
    with pytest.raises(SvidError, match="cannot be used"):
        await store.svid(WEB)
