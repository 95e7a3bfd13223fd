"""TLS towards endpoints outside the mesh, and endpoints that are names."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from ambient.api.credential import Credential
from ambient.api.workload import TunnelProtocol
from tests.unit.waypoint.io.rig import http_app, rig
from tests.unit.waypoint.io.test_safeguards import register
from tests.unit.waypoint.sample import config, workload
from waypoint.io import credentials

CA = trustme.CA()


def https_app(*names, clients=None, leaf=None, seen=None):
    """``seen`` gets the common name of each client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (leaf or CA.issue_cert(*names)).configure_cert(context)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)
    plain = http_app("v1")

    async def app(stream):
        secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await secured.do_handshake()
            if seen is not None:
                subject = dict(pair for (pair,) in secured.getpeercert()["subject"])
                seen.append(subject["commonName"])
            await plain(secured)
        except trio.BrokenResourceError:
            pass

    return app


def tls(tmp_path, **more):
    ca = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(ca)
    spec = {"mode": "SIMPLE", "caCertificates": str(ca), **more}
    return config("DestinationRule", "reviews", {"host": "reviews", "trafficPolicy": {"tls": spec}})


HOST = "reviews.shop.svc.cluster.local"


@pytest.mark.parametrize(
    ("names", "more", "status", "cause"),
    [
        ((HOST,), {}, 200, b""),
        (("api.example.com",), {"sni": "api.example.com"}, 200, b""),
        (("other.example.com",), {}, 503, b"Hostname mismatch"),
        (("api.example.com",), {"subjectAltNames": ["x", "api.example.com"]}, 200, b""),
        (("api.example.com",), {"subjectAltNames": ["x"]}, 503, b"the server is api.example.com"),
        (("*.example.com",), {"subjectAltNames": ["API.example.com"]}, 200, b""),
        (("*.example.com",), {"subjectAltNames": ["a.b.example.com"]}, 503, b"the server is"),
        (("other.example.com",), {"insecureSkipVerify": True}, 200, b""),
        ((HOST,), {"caCertificates": "system"}, 503, b"unable to get local issuer"),
        ((HOST,), {"caCertificates": "/none"}, 503, b"no such file"),
    ],
)
async def test_a_server_outside_the_mesh(tmp_path, names, more, status, cause):
    async with rig(hbone=False, apps=False) as made:
        for ip in ("127.0.1.1", "127.0.1.2"):
            await made.app(ip, https_app(*names))
        made.configure(tls(tmp_path, **more))
        caller = await made.caller()
        got = await caller.get()
        assert got.status == status
        assert cause.decode().lower() in (await made.cause()).lower()
        if status == 200:
            assert (await caller.get()).status == 200  # the connection is kept


async def test_tls_inside_the_tunnel(tmp_path):
    async with rig(apps=False) as made:
        for ip in ("127.0.1.1", "127.0.1.2"):
            await made.app(ip, https_app(HOST))
        made.configure(tls(tmp_path))
        assert (await (await made.caller()).get()).status == 200
        assert sum(made.tunnels.values()) == 1


async def test_both_sides_show_a_certificate(tmp_path):
    own = CA.issue_cert("waypoint.example.com")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    chain = b"".join(blob.bytes() for blob in own.cert_chain_pems)
    (tmp_path / "cert.pem").write_bytes(chain)
    files = {
        "mode": "MUTUAL",
        "clientCertificate": str(tmp_path / "cert.pem"),
        "privateKey": str(tmp_path / "key.pem"),
    }
    async with rig(hbone=False, apps=False) as made:
        for ip in ("127.0.1.1", "127.0.1.2"):
            await made.app(ip, https_app(HOST, clients=CA))
        made.configure(tls(tmp_path, **files))
        assert (await (await made.caller()).get()).status == 200
        made.configure(tls(tmp_path))
        assert (await (await made.caller()).get()).status == 503


def credential(made, name="bank", **parts):
    """The control plane tells the waypoint of a Secret."""
    one = Credential(name, **parts)
    return made.credentials.apply({name: one}, ())


def pem(leaf):
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    return {"certificate_pem": chain, "private_key_pem": leaf.private_key_pem.bytes()}


def by_secret(**more):
    spec = {"mode": "MUTUAL", "credentialName": "bank", "sni": HOST, **more}
    return config("DestinationRule", "reviews", {"host": "reviews", "trafficPolicy": {"tls": spec}})


def revocation_list(authority, leaf):
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    revoked = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    now = datetime.now(UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(revoked.serial_number)
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - timedelta(days=1))
        .next_update(now + timedelta(days=1))
        .add_revoked_certificate(entry.revocation_date(now - timedelta(days=1)).build())
        .sign(load_pem_private_key(authority.private_key_pem.bytes(), None), hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


async def test_a_certificate_from_a_secret_is_replaced_while_requests_go_on():
    seen = []
    async with rig(hbone=False, apps=False) as made:
        for ip in ("127.0.1.1", "127.0.1.2"):
            await made.app(ip, https_app(HOST, clients=CA, seen=seen))
        made.configure(by_secret())
        believed = {"name": "kubernetes://bank-cacert", "ca_pem": CA.cert_pem.bytes()}
        credential(made, **believed)
        caller = await made.caller()
        for name in ("first", "second"):
            leaf = CA.issue_cert("x.example.com", common_name=name)
            assert credential(made, "kubernetes://bank", **pem(leaf)) == ()
            assert (await caller.get()).status == 200
        made.upstreams.close()
        assert (await caller.get()).status == 200
        assert dict.fromkeys(seen) == dict.fromkeys(["first", "second"])
        # One that is of no use is refused, and the one before stays.
        (bad,) = credential(made, "kubernetes://bank", certificate_pem=b"x", private_key_pem=b"y")
        assert bad.name == "kubernetes://bank"
        assert (await (await made.caller()).get()).status == 200
        # Whoever signs for the server has changed.
        credential(made, name="kubernetes://bank-cacert", ca_pem=trustme.CA().cert_pem.bytes())
        made.upstreams.close()
        made.records.clear()
        assert (await (await made.caller()).get()).status == 503
        assert "certificate verify failed" in (await made.cause()).lower()


@pytest.mark.parametrize("told", [True, False])
async def test_a_secret_that_is_not_there(told, monkeypatch):
    monkeypatch.setattr(credentials, "FIRST_WAIT_S", 0.05)
    async with rig(hbone=False, apps=False) as made:
        await made.app("127.0.1.1", https_app(HOST))
        made.configure(by_secret())
        if told:
            credential(made, "kubernetes://bank")
            credential(made, "kubernetes://bank-cacert")
        assert (await (await made.caller()).get()).status == 503
        assert await made.cause() == "TLS error: Secret is not supplied by SDS"
        assert made.calls == {}


async def test_a_secret_that_comes_a_moment_after_its_rule():
    async with rig(hbone=False, apps=False) as made:
        for ip in ("127.0.1.1", "127.0.1.2"):
            await made.app(ip, https_app(HOST))
        made.configure(by_secret(mode="SIMPLE"))
        caller = await made.caller()
        await caller.send()
        await trio.testing.wait_all_tasks_blocked(0.05)
        credential(made, "kubernetes://bank-cacert", ca_pem=CA.cert_pem.bytes())
        assert (await caller.receive()).status == 200


@pytest.mark.parametrize("revoked", [True, False])
async def test_a_secret_with_a_revocation_list(revoked):
    authority = trustme.CA()
    leaf, other = authority.issue_cert(HOST), authority.issue_cert("other")
    crl = revocation_list(authority, leaf if revoked else other)
    async with rig(hbone=False, apps=False) as made:
        for ip in ("127.0.1.1", "127.0.1.2"):
            await made.app(ip, https_app(leaf=leaf))
        made.configure(by_secret(mode="SIMPLE"))
        credential(made, "kubernetes://bank-cacert", ca_pem=authority.cert_pem.bytes(), crl_pem=crl)
        assert (await (await made.caller()).get()).status == (503 if revoked else 200)


async def test_an_endpoint_that_is_a_name():
    async with rig(hbone=False, apps=False) as made:
        named = [
            workload(
                name, "0.0.0.0", "v1", addresses=(), hostname="localhost",
                tunnel_protocol=TunnelProtocol.NONE,
            )
            for name in ("reviews-v1", "reviews-v2")
        ]  # fmt: skip
        register(made, *named)
        await made.app("127.0.0.1", http_app("by name"))
        got = await (await made.caller()).get()
        assert (got.status, got.json["version"]) == (200, "by name")
