"""What guides of service meshes do with what is outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.scenarios.mesh import FOLDER, Mesh, until

WWW = "http://www.example.com"
SECURE = "http://secure.example.com"


@pytest.fixture(scope="module")
def outside(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A web site outside the mesh, and a waypoint on the way to it."""
    folder = certificates(tmp_path_factory.mktemp("certificates"))
    programs = f"--from-file={FOLDER}/programs"
    with mesh.applied("egress/site", "egress/gateway", wait=False):
        mesh.kubectl("create", "configmap", "programs", "-n", "elsewhere", programs)
        for namespace in ("elsewhere", "egress"):
            secret = ("secret", "generic", "certificates", "-n", namespace)
            mesh.kubectl("create", *secret, f"--from-file={folder}")
        with mesh.applied("egress/entries"):
            mesh.ready("elsewhere", "site")
            mesh.kubectl(
                "wait", "gateway/egress", "-n", "egress", "--for=condition=Programmed",
                "--timeout=60s",
            )  # fmt: skip
            until(lambda: mesh.answer(WWW)[0].get("server") == "istio-envoy")
            yield mesh


def certificates(folder: Path) -> Path:
    """``ca.pem``, ``site.pem`` and ``client.pem``, the latter two with their keys."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, made in (
        ("site", authority.issue_cert("secure.example.com")),
        ("client", authority.issue_cert("egress.example.org", common_name="egress")),
    ):
        made.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
    return folder


def test_only_what_is_listed_may_be_called(outside: Mesh) -> None:
    with outside.applied("egress/allow-list"):
        until(
            lambda: (
                outside.status(f"{WWW}/private") == 403
                and outside.status(f"{WWW}/public/page") == 200
            )
        )
        found = outside.json(f"{WWW}/public/page")
        assert found["path"] == "/public/page"
        assert "x-forwarded-client-cert" not in {name.lower() for name in found["headers"]}
        assert outside.status(f"{WWW}/public/page", "-X", "POST") == 403
        assert outside.status(f"{WWW}/public/page", pod="ratings") == 403
        assert outside.status(f"{SECURE}/public/page") == 403


def test_a_host_outside_is_routed(outside: Mesh) -> None:
    with outside.applied("egress/routes"):
        until(lambda: outside.curl(f"{WWW}/closed") == ["gone 410"])
        found = outside.json(f"{WWW}/old/page")
        assert found["path"] == "/new/page"
        assert {name.lower(): value for name, value in found["headers"].items()}[
            "x-left-by"
        ] == "egress"


def test_the_waypoint_originates_tls(outside: Mesh) -> None:
    # Without it, plain HTTP meets a port that speaks TLS; and who speaks TLS himself passes.
    assert outside.status(f"{SECURE}/") in (502, 503)
    himself = outside.json("https://secure.example.com/", "-k")
    assert himself["sni"] == "secure.example.com"
    with outside.applied("egress/tls-origination"):
        until(lambda: outside.status(f"{SECURE}/page") == 200)
        found = outside.json(f"{SECURE}/page")
        assert (found["secure"], found["sni"], found["client"]) == (
            True, "secure.example.com", "",
        )  # fmt: skip
    with outside.applied("egress/mutual-tls"):
        until(lambda: "'egress'" in outside.curl(f"{SECURE}/page")[0])
