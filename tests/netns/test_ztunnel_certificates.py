"""Certificates that come late, change under traffic, or are taken back; denials that explain."""

import io
import ssl

import pytest
import trio
from cryptography import x509

from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.ports import HBONE_PORT
from ambient.identity.io.ca_client import CaError
from ambient.identity.io.crl_file import CrlFile
from ambient.net.io import sock_diag
from ambient.telemetry.core.metric_names import CONNECTIONS_CLOSED
from ambient.telemetry.io import logs
from tests.fakes.ca_server import Authority
from tests.netns.lan import echo, exchange, read_all
from tests.netns.tunnel import LocalCa, Tunnel, capture_log, running, workload

pytestmark = pytest.mark.netns

REVOKED = "peer certificate revoked by CRL"


class ScriptedCa(LocalCa):
    """Signs for ``ttl_s``; shows two roots while one is being replaced; refuses on demand."""

    def __init__(self, ttl_s=86_400):
        super().__init__()
        self.ttl_s = ttl_s
        self.issued = {}
        self.asked = 0
        self.failing = 0
        self.more_roots = ()

    async def sign(self, identity, csr_pem, *, impersonate, ttl_s):
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.failing:
            self.failing -= 1
            raise CaError("the CA is away")
        leaf, root = self.authority.sign_csr(csr_pem, identity, ttl_s=self.ttl_s)
        self.issued[identity.service_account] = x509.load_pem_x509_certificate(leaf.encode())
        return [leaf, "".join([root, *(one.root_pem.decode() for one in self.more_roots)])]


@pytest.fixture
def log():
    yield capture_log(io.StringIO())
    logs.configure()


@pytest.fixture
def web(lan):
    return lan.pod("web")


@pytest.fixture
def api(lan):
    return lan.pod("api")


def with_revocation(tunnel, path):
    """The tunnel follows a revocation file, as ``CRL_PATH`` makes it."""
    crl = CrlFile(str(path))
    tunnel.node.certs._revocation = crl
    return crl


def tunnels_of(pod):
    """HBONE connections that are open from a pod."""
    found = pod.netns.run(sock_diag.sockets, 1 << 1)  # TCP_ESTABLISHED
    return sum(one.destination_port == HBONE_PORT for one in found)


async def test_certificates_change_every_second_under_traffic(web, api, log):
    ca = ScriptedCa(ttl_s=2)
    tunnel = Tunnel(ca)
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await tunnel.enrol(web)
        await tunnel.enrol(api)
        served = 0
        async with await web.dial(api.ip, 8080) as lasting:
            with trio.fail_after(60):
                while ca.asked < 8:
                    assert await exchange(lasting, b"lasting") == b"lasting"
                    async with await web.dial(api.ip, 8080) as short:
                        assert await exchange(short, b"short") == b"short"
                    served += 1
        assert served > 20
        lines = await log.wait(2 * served + 2)
        assert not [line for line in lines if "error" in line]
        # connections of old certificates go when their last stream has gone
        with trio.fail_after(30):
            while tunnels_of(web) > 1:
                await trio.sleep(0.05)


async def test_a_root_is_replaced_without_losing_a_connection(web, api, log):
    """Both roots are trusted first, then the new one signs, then the old one goes."""
    ca, new = ScriptedCa(), Authority()
    old = ca.authority
    tunnel = Tunnel(ca)
    tunnel.node.certs._jitter = lambda: 0.0  # not spread over seconds
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await tunnel.enrol(web)
        await tunnel.enrol(api)
        async with await web.dial(api.ip, 8080) as lasting:
            for authority, more in ((old, (new,)), (new, (old,)), (new, ())):
                ca.authority, ca.more_roots, before = authority, more, ca.asked
                tunnel.node.certs.renew_all()
                with trio.fail_after(30):
                    while ca.asked < before + 2:
                        assert await exchange(lasting, b"lasting") == b"lasting"
                        async with await web.dial(api.ip, 8080) as short:
                            assert await exchange(short, b"short") == b"short"
            assert await exchange(lasting, b"to the end") == b"to the end"
        assert not [line for line in await log.wait(2) if "error" in line]


def closed_with(metrics):
    """The response flags of all connections that ended."""
    families = [one for one in metrics.collect() if one.name == CONNECTIONS_CLOSED]
    return {sample.labels["response_flags"] for one in families for sample in one.samples}


async def test_a_revoked_client_is_refused_and_its_live_connection_cut(web, api, log, tmp_path):
    ca = ScriptedCa()
    near, far = Tunnel(ca), Tunnel(ca)  # two nodes; only the server's has a revocation file
    crl = with_revocation(far, tmp_path / "crl.pem")
    async with running(near, far) as nursery:
        await nursery.start(crl.run)
        await api.serve(8080, echo, nursery)
        await enrol_on(near, far, web, api)
        async with await web.dial(api.ip, 8080) as live:
            await exchange(live, b"before")
            (tmp_path / "crl.pem").write_bytes(ca.authority.revoke(ca.issued["web"]))
            assert not await read_all(live)
        async with await web.dial(api.ip, 8080) as late:
            assert not await read_all(late)
        errors = [line["error"] for line in log.errors("inbound", await log.wait(2))]
        assert errors == [f"connection closed: {REVOKED}"]
        (refused,) = await log.wait(1, "connection failed")
        assert REVOKED in refused["error"]
        assert closed_with(far.metrics) == {"CERT_REVOKED"}
        assert crl.rejections["destination"] >= 2


async def test_a_revoked_server_gets_no_data_and_its_live_connection_is_cut(
    web, api, log, tmp_path
):
    ca = ScriptedCa()
    near, far = Tunnel(ca), Tunnel(ca)
    crl = with_revocation(near, tmp_path / "crl.pem")
    async with running(near, far) as nursery:
        await nursery.start(crl.run)
        await api.serve(8080, echo, nursery)
        await enrol_on(near, far, web, api)
        async with await web.dial(api.ip, 8080) as live:
            await exchange(live, b"before")
            (tmp_path / "crl.pem").write_bytes(ca.authority.revoke(ca.issued["api"]))
            assert not await read_all(live)
        async with await web.dial(api.ip, 8080) as late:
            assert not await read_all(late)
        errors = [line["error"] for line in log.errors("outbound", await log.wait(3))]
        assert errors[0] == f"connection closed: {REVOKED}"
        assert REVOKED in errors[1]
        assert closed_with(near.metrics) == {"CERT_REVOKED"}


async def enrol_on(near, far, web, api):
    await near.enrol(web)
    await far.enrol(api)
    near.know(workload(api))
    far.know(workload(web))


async def test_pain_02_a_connection_waits_for_a_late_certificate_and_is_never_called_denied(
    web, api, log
):
    ca = ScriptedCa()
    ca.failing = 3
    tunnel = Tunnel(ca)
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await tunnel.enrol(web)
        await tunnel.enrol(api)
        async with await web.dial(api.ip, 8080) as stream:
            assert await exchange(stream, b"held, not refused") == b"held, not refused"
        assert not [line for line in await log.wait(2) if "error" in line]


async def test_pain_02_a_client_without_certificate_is_not_called_denied(lan, api, log):
    tunnel = Tunnel()
    outsider = lan.pod("outsider")
    async with running(tunnel):
        await tunnel.enrol(api)
        async with await outsider.dial(api.ip, HBONE_PORT) as stream:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            secure = trio.SSLStream(stream, context, server_hostname=api.ip)
            await secure.do_handshake()  # a TLS 1.3 client learns later that it is refused
            with pytest.raises(trio.BrokenResourceError):
                await secure.receive_some()
        (line,) = await log.wait(1, "connection failed")
        assert "showed no certificate" in line["error"]
        assert "denied" not in line["error"]
        assert not log.events("policy.denied")


def allow(name, account, port):
    principal = StringMatch(MatchKind.SUFFIX, f"/sa/{account}")
    return Authorization(
        name=name,
        namespace="shop",
        scope=Scope.NAMESPACE,
        action=Action.ALLOW,
        groups=(((Match(principals=(principal,)),), (Match(destination_ports=(port,)),)),),
    )


async def test_pain_01_a_denial_is_explained_at_both_ends(lan, web, api, log):
    tunnel = Tunnel()
    outsider = lan.pod("outsider")
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await tunnel.enrol(web)
        await tunnel.enrol(api)
        tunnel.know(allow("others", "batch", 9090), allow("web-only", "web", 9090))
        async with await web.dial(api.ip, 8080) as stream:
            assert not await read_all(stream)
        nearest = "shop/web-only rule 1: destination port is 8080, must be 9090"
        for line in await log.wait(2):
            assert "no ALLOW policy matched (of shop/others, shop/web-only)" in line["error"]
            assert nearest in line["error"], line["direction"]
        (told,) = log.events("policy.denied")
        assert told["nearest"] == nearest

        # from outside the mesh there is only one end, and it says what was missing
        async with await outsider.dial(api.ip, 8080) as stream:
            assert not await read_all(stream)
        assert "principal is no identity" in (await log.wait(3))[-1]["error"]


async def test_pain_32_live_connections_are_judged_again_and_the_number_closed_is_told(
    lan, web, api, log
):
    tunnel = Tunnel()
    other = lan.pod("other")
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        for pod in (web, api, other):
            await tunnel.enrol(pod)
        async with await web.dial(api.ip, 8080) as cut, await other.dial(api.ip, 8080) as kept:
            await exchange(cut, b"x")
            await exchange(kept, b"x")
            tunnel.know(allow("only-other", "other", 8080))
            assert not await read_all(cut)
            assert await exchange(kept, b"y") == b"y"
        (judged,) = log.events("policy.judged_again")
        assert (judged["judged"], judged["closed"]) == (2, 1)
