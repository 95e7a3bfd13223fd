"""TLS towards endpoints outside the mesh, and endpoints that are names."""

from __future__ import annotations

import ssl

import pytest
import trio
import trustme

from ambient.api.workload import TunnelProtocol
from tests.unit.waypoint.io.rig import http_app, rig
from tests.unit.waypoint.io.test_safeguards import register
from tests.unit.waypoint.sample import config, workload

CA = trustme.CA()


def https_app(*names, clients=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(*names).configure_cert(context)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)
    plain = http_app("v1")

    async def app(stream):
        secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await secured.do_handshake()
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
        ((HOST,), {"credentialName": "secret"}, 503, b"waypoints read no Secrets"),
    ],
)
async def test_a_server_outside_the_mesh(tmp_path, names, more, status, cause):
    async with rig(hbone=False, apps=False) as made:
        for ip in ("127.0.1.1", "127.0.1.2"):
            await made.app(ip, https_app(*names))
        made.configure(tls(tmp_path, **more))
        caller = await made.caller()
        got = await caller.get()
        assert (got.status, cause.lower() in got.body.lower()) == (status, True)
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
