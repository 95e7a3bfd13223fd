"""What guides of service meshes do with what is outside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.scenarios.mesh import AMBIENTCTL, FOLDER, Mesh, status, until

WWW = "http://www.example.com"
SECURE = "http://secure.example.com"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of the site and of its clients."""
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def outside(stage: Mesh, folder: Path) -> Iterator[Mesh]:
    """A web site outside the mesh, and a waypoint on the way to it."""
    programs = f"--from-file={FOLDER}/programs"
    with stage.applied("egress/site", "egress/gateway", wait=False):
        stage.kubectl("create", "configmap", "programs", "-n", "elsewhere", programs)
        for namespace in ("elsewhere", "egress"):
            secret = ("secret", "generic", "certificates", "-n", namespace)
            stage.kubectl("create", *secret, f"--from-file={folder}")
        with stage.applied("egress/entries"):
            stage.ready("elsewhere", "site")
            stage.kubectl(
                "wait", "gateway/egress", "-n", "egress", "--for=condition=Programmed",
                "--timeout=60s",
            )  # fmt: skip
            until(lambda: stage.answer(WWW)[0].get("server") == "istio-envoy")
            yield stage


def certificates(folder: Path) -> Path:
    """``ca.pem``, ``site.pem`` and two clients' certificates, those with their keys."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, made in (
        ("site", authority.issue_cert("secure.example.com")),
        ("client", authority.issue_cert("egress.example.org", common_name="egress")),
        ("renewed", authority.issue_cert("egress.example.org", common_name="renewed")),
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


def test_only_what_is_declared_may_be_reached(outside: Mesh) -> None:
    # An address that no Service and no ServiceEntry has: the node agent's readiness on node-2.
    undeclared = "http://172.30.0.12:8000/readyz"
    assert outside.status(undeclared) == 200
    outside.kubectl("apply", "-f", FOLDER / "egress" / "registry-only.yaml")
    try:
        until(lambda: outside.status(undeclared) == 0)
        assert outside.status(WWW) == 200
        assert outside.status("http://details:9080/health") == 200
    finally:
        outside.kubectl("apply", "-f", FOLDER / "stage" / "mesh-config.yaml")
    until(lambda: outside.status(undeclared) == 200)


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


def test_a_certificate_from_a_secret_and_its_rotation(
    outside: Mesh, folder: Path, tmp_path: Path
) -> None:
    path = ("destinationrule/secure", "-n", "egress", "-o", "jsonpath={.status.conditions[0]}")

    def page() -> str:
        return outside.curl(f"{SECURE}/page")[0]

    def log() -> str:
        return outside.logs("egress", "egress").lower()

    def supply(client: str) -> None:
        pem = (folder / f"{client}.pem").read_text()
        data = {"tls.crt": pem, "tls.key": pem, "ca.crt": (folder / "ca.pem").read_text()}
        metadata = {"name": "bank-client", "namespace": "egress"}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
        (tmp_path / "secret.json").write_text(json.dumps(secret))
        outside.kubectl("apply", "-f", tmp_path / "secret.json")

    with outside.applied("egress/credential"):
        # The control plane reads nobody's Secrets unasked; the rule says how it may.
        until(lambda: "may not be read by the control plane" in outside.kubectl("get", *path))
        command = re.search(r"\(kubectl ([^)]*)\)", outside.kubectl("get", *path))
        assert command is not None
        outside.kubectl(*command[1].split())
        # Nothing is sent anywhere as long as there is no Secret, and the rule says so.
        until(lambda: "Secret egress/bank-client does not exist" in outside.kubectl("get", *path))
        until(lambda: status(page()) == 503 and "secret_is_not_supplied" in log())
        try:
            supply("client")
            until(lambda: "'egress'" in page())
            until(lambda: outside.kubectl("get", *path) == "")
            supply("renewed")
            until(lambda: "'renewed'" in page())
            shown = outside.run(AMBIENTCTL, "proxy-config", "secret", "egress", "-n", "egress")
            assert "kubernetes://bank-client " in shown
            assert "kubernetes://bank-client-cacert" in shown
        finally:
            outside.kubectl("delete", "secret", "bank-client", "-n", "egress")


def test_a_backend_tls_policy_and_its_authorities(outside: Mesh, folder: Path) -> None:
    vault = "http://vault.egress/"
    conditions = "jsonpath={.status.ancestors[0].conditions[*].reason}"
    path = ("backendtlspolicy/vault", "-n", "egress", "-o", conditions)
    foreign = trustme.CA().cert_pem.bytes().decode()
    own = (folder / "ca.pem").read_text()

    def log() -> str:
        return outside.logs("egress", "egress").lower()

    def believe(*authorities: str) -> None:
        literal = "--from-literal=ca.crt=" + "".join(authorities)
        made = outside.kubectl(
            "create", "configmap", "site-authority", "-n", "egress", literal,
            "--dry-run=client", "-o", "yaml",
        )  # fmt: skip
        (folder / "authority.yaml").write_text(made)
        outside.kubectl("apply", "-f", folder / "authority.yaml")

    with outside.applied("egress/backend-tls"):
        # Nobody is called as long as there is nobody to believe, and the policy says so.
        until(
            lambda: outside.kubectl("get", *path) == "NoValidCACertificate InvalidCACertificateRef"
        )
        until(lambda: outside.status(vault) == 503)
        try:
            believe(foreign)
            until(lambda: outside.status(vault) == 503 and "verify_failed" in log())
            until(lambda: outside.kubectl("get", *path) == "Accepted ResolvedRefs")
            believe(own)
            until(lambda: outside.status(vault) == 200)
            found = outside.json(f"{vault}page")
            assert (found["secure"], found["sni"]) == (True, "secure.example.com")
            until(lambda: outside.json(f"{SECURE}/page")["secure"])
            # A rotation: both authorities, while requests go on.
            believe(foreign, own)
            assert outside.statuses(vault, times=20) == [200] * 20
            names = [{"type": "URI", "uri": "spiffe://elsewhere/vault"}]
            patch = {"spec": {"validation": {"subjectAltNames": names}}}
            outside.kubectl(
                "patch", "backendtlspolicy", "vault", "-n", "egress", "--type=merge",
                "-p", json.dumps(patch),
            )  # fmt: skip
            until(lambda: outside.status(vault) == 503 and "not_spiffe://elsewhere" in log())
        finally:
            outside.kubectl(
                "delete", "configmap", "site-authority", "-n", "egress", "--ignore-not-found"
            )
