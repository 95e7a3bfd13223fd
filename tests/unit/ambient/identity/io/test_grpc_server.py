"""Addresses of the control plane, and what goes with every call."""

import pytest

from ambient.api.errors import MeshError
from ambient.identity.io.grpc_server import GrpcServer


@pytest.mark.parametrize(
    ("url", "address", "root"),
    [
        ("istiod:15012", "istiod:15012", "/root.pem"),
        ("https://istiod:15012", "istiod:15012", "/root.pem"),
        ("https://istiod:15012/", "istiod:15012", "/root.pem"),
        ("http://127.0.0.1:15010", "127.0.0.1:15010", ""),
        ("[::1]:15012", "[::1]:15012", "/root.pem"),
    ],
)
def test_only_http_is_plain_text(url, address, root):
    server = GrpcServer.at(url, root_ca_file="/root.pem", token_file="")
    assert (server.address, server.root_ca_file) == (address, root)


def test_metadata_has_the_newest_token(tmp_path):
    token = tmp_path / "token"
    server = GrpcServer.at(
        "istiod:1", root_ca_file="", token_file=str(token), headers={"X-Zone": "a"}
    )
    with pytest.raises(MeshError, match=r"cannot read the token file .*token: No such file"):
        server.metadata()
    token.write_text("\n")
    with pytest.raises(MeshError, match=r"the token file .* is empty"):
        server.metadata()
    token.write_text("first\n")
    server.metadata()
    token.write_text("second\n")
    expected = ("clusterid", "Kubernetes"), ("authorization", "Bearer second"), ("x-zone", "a")
    assert server.metadata() == expected
    assert server.root() == b""
