"""One mesh for all scenarios: each leaves it as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scenarios.mesh import AMBIENTCTL, FOLDER, NAME, Mesh, until


@pytest.fixture(scope="package")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The sample, enrolled, behind a waypoint; two nodes in two zones of one region."""
    made = Mesh(tmp_path_factory.mktemp("state"))
    made.local("up", "--name", NAME, "--nodes", "2")
    try:
        made.kubectl("label", "namespace", "bookinfo", "istio.io/dataplane-mode=ambient")
        made.run(AMBIENTCTL, "waypoint", "apply", "-n", "bookinfo", "--enroll-namespace", "--wait")
        until(
            lambda: "server: istio-envoy" in "".join(made.curl("http://details:9080/headers", "-i"))
        )
        yield made
    finally:
        made.close()
        made.local("down", "--name", NAME)


@pytest.fixture(scope="package")
def stage(mesh: Mesh) -> Mesh:
    """The mesh, with the programs that it asks and tells: see ``stage`` and ``programs``."""
    mesh.kubectl("apply", "-f", FOLDER / "stage")
    programs = f"--from-file={FOLDER}/programs"
    for namespace in ("tools", "bookinfo"):
        mesh.kubectl("create", "configmap", "programs", "-n", namespace, programs)
    mesh.ready("tools", "authorizer", "rate-limits", "collector", "issuer")
    mesh.ready("bookinfo", "chat")
    return mesh
