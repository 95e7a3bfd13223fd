"""One call to a CA over TLS: what it is told, and what its refusals look like to a person."""

import grpc
import pytest
import trio

from ambient.api.spiffe import Identity
from ambient.identity.core.csr import new_key_and_csr
from ambient.identity.core.svid import parse_svid
from ambient.identity.io.ca_client import CaClient, CaError
from ambient.identity.io.cert_store import CertStore
from ambient.identity.io.grpc_server import GrpcServer
from tests.fakes.ca_server import WAYPOINT, Authority, FakeCa, Refusal
from tests.fakes.xds_server import FakeControlPlane

WEB = Identity("cluster.local", "shop", "web")


@pytest.fixture
def control(tmp_path):
    with FakeControlPlane(tmp_path) as running:
        yield running


@pytest.fixture
def client(control):
    client = CaClient(GrpcServer(**control.settings()))
    yield client
    client.close()


async def sign(client, identity=WEB, *, impersonate=True):
    key_pem, csr_pem = new_key_and_csr(identity)
    with trio.fail_after(30):
        chain = await client.sign(identity, csr_pem, impersonate=impersonate, ttl_s=600)
    return parse_svid(identity, key_pem, chain)


async def test_a_node_tunnel_asks_in_the_name_of_its_pod(control, client):
    assert (await sign(client)).identity == WEB
    (call,) = control.ca.calls
    assert (call.impersonated, call.ttl_s) == (str(WEB), 600)
    assert call.metadata["authorization"] == "Bearer token"
    assert call.metadata["clusterid"] == "Kubernetes"


async def test_a_waypoint_asks_for_itself(control, client):
    assert (await sign(client, WAYPOINT, impersonate=False)).identity == WAYPOINT
    assert control.ca.calls[0].impersonated == ""


async def test_a_renewed_token_is_used_at_once(control, client):
    await sign(client)
    control.ca.token = "newer"
    with pytest.raises(CaError, match=r"UNAUTHENTICATED.*no valid token") as caught:
        await sign(client)
    assert "service account" in caught.value.hint
    control.token_file.write_text("newer\n")
    await sign(client)


async def test_a_renewed_root_makes_a_new_connection(tmp_path):
    with FakeControlPlane(tmp_path) as first:
        client = CaClient(GrpcServer(**first.settings()))
        await sign(client)
    second = FakeControlPlane(tmp_path, ca=FakeCa(Authority()), port=first.port)
    with second:
        await sign(client)
    client.close()


async def test_refusals_say_what_and_why(control, client):
    control.ca.refuse = Refusal(grpc.StatusCode.INTERNAL, "CA is not ready")
    with pytest.raises(CaError, match=r"no certificate for .*web.*INTERNAL.*CA is not ready"):
        await sign(client)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("token_file", None, "cannot read the token file"),
        ("token_file", " \n", "is empty"),
        ("root_ca_file", None, "cannot read the root certificate file"),
    ],
)
async def test_bad_files_are_named(control, client, file, content, complaint):
    path = getattr(control, file)
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(CaError, match=complaint):
        await sign(client)


async def test_an_absent_ca_is_named_with_its_address(tmp_path):
    control = FakeControlPlane(tmp_path)
    control.start()
    control.stop()
    client = CaClient(GrpcServer(**control.settings()))
    with pytest.raises(CaError, match="UNAVAILABLE") as caught:
        await sign(client)
    assert str(control.port) in caught.value.hint
    client.close()


async def test_cancelling_a_call_ends_it(control, client):
    with trio.move_on_after(0) as scope:
        await sign(client)
    assert scope.cancelled_caught
    await sign(client)  # the channel is still good


async def test_a_store_over_the_real_client(client, nursery):
    store = CertStore(client, impersonate=True)
    await nursery.start(store.run)
    with trio.fail_after(30):
        assert (await store.svid(WEB)).identity == WEB
        context = await store.client_context(WEB)
        assert await store.client_context(WEB) is context
        assert await store.server_context(WEB) is not context


async def test_a_ca_that_is_back_is_found_within_two_seconds(control, client):
    """However long it was away: gRPC would go on failing for as long again."""
    assert await sign(client)
    control.stop()
    for _ in range(12):
        with pytest.raises(CaError, match="UNAVAILABLE"):
            await sign(client)
        await trio.sleep(0.3)
    control.start()
    with trio.fail_after(2.5):
        while True:
            try:
                assert await sign(client)
                return
            except CaError:
                await trio.sleep(0.1)
