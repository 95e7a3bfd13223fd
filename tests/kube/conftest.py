"""The control plane's scenarios run against both API servers."""

import pytest

from tests.kube import servers


@pytest.fixture(scope="session")
def real_server(tmp_path_factory):
    reason = servers.missing()
    if reason:
        pytest.skip(reason)
    server = servers.RealServer(tmp_path_factory.mktemp("kube"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.kube)])
async def cluster(request, tmp_path):
    """A server with CRDs and roles; ``cluster.kube`` is its administrator."""
    if request.param == "real":
        server = request.getfixturevalue("real_server")
        async with server.admin() as kube:
            await server.prepare(kube)
            server.kube = kube
            server.folder = tmp_path
            yield server
    else:
        async with servers.embedded(tmp_path) as server, server.admin() as kube:
            await server.prepare(kube)
            server.kube = kube
            yield server
