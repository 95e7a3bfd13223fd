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
def chosen(request):
    """The real server, or None; skipped here, where the reason is told: async fixtures lose it."""
    return request.getfixturevalue("real_server") if request.param == "real" else None


@pytest.fixture
async def cluster(chosen, tmp_path):
    """A server with CRDs and roles; ``cluster.kube`` is its administrator."""
    if chosen is not None:
        async with chosen.admin() as kube:
            await chosen.prepare(kube)
            chosen.kube = kube
            chosen.folder = tmp_path
            yield chosen
    else:
        async with servers.embedded(tmp_path) as server, server.admin() as kube:
            await server.prepare(kube)
            server.kube = kube
            yield server
