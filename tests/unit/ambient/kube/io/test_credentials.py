"""Credentials of every kind that kubectl takes: certificates, tokens, passwords, plugins."""

from __future__ import annotations

import base64
import json
import ssl

import pytest
import trustme
import yaml

from ambient.api.errors import SettingsError
from ambient.kube.io.credentials import load_credentials


def encoded(text):
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def written(folder, user, **cluster):
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://a:6443/prefix/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({"token": "abc"}, "Bearer abc"),
        ({"token": "Bearer abc\n"}, "Bearer abc"),
        ({"username": "me", "password": "pw"}, f"Basic {encoded('me:pw')}"),
        ({}, None),
    ],
)
def test_who_calls(tmp_path, user, header):
    found = load_credentials(written(tmp_path, user))
    assert found.authorization() == header
    assert found.server == "https://a:6443/prefix"


def test_a_token_is_read_again_from_its_file(tmp_path):
    (tmp_path / "token").write_text("old\n")
    found = load_credentials(written(tmp_path, {"tokenFile": "token", "token": "other"}))
    assert found.authorization() == "Bearer old"
    (tmp_path / "token").write_text("new\n")
    assert found.authorization() == "Bearer new"


def test_a_plugin_is_run_by_the_package_for_it(tmp_path):
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from-the-plugin"},
    }
    program = tmp_path / "plugin"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    program.chmod(0o700)
    plugin = {
        "apiVersion": answer["apiVersion"],
        "command": str(program),
        "interactiveMode": "Never",
    }
    found = load_credentials(written(tmp_path, {"exec": plugin, "as": "somebody"}))
    assert found.authorization() == "Bearer from-the-plugin"
    assert found.impersonation == [("Impersonate-User", "somebody")]


@pytest.fixture(scope="module")
def pair():
    authority = trustme.CA()
    return authority, authority.issue_cert("me")


@pytest.mark.parametrize("inline", [True, False])
def test_certificates_in_the_file_and_beside_it(tmp_path, pair, inline):
    authority, mine = pair
    parts = {
        "certificate-authority": authority.cert_pem.bytes(),
        "client-certificate": mine.cert_chain_pems[0].bytes(),
        "client-key": mine.private_key_pem.bytes(),
    }
    told = {}
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
        told[f"{name}-data" if inline else name] = encoded(content) if inline else name
    own = {key: told.pop(key) for key in list(told) if key.startswith("client-")}
    found = load_credentials(written(tmp_path, own, **told, **{"tls-server-name": "kubernetes"}))
    context = found.tls()
    assert context.cert_store_stats()["x509_ca"] == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert found.server_name == "kubernetes"


def test_verification_is_left_out_where_the_file_says_so(tmp_path):
    found = load_credentials(written(tmp_path, {}, **{"insecure-skip-tls-verify": True}))
    assert found.tls().verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("user", "cluster", "said"),
    [
        ({"client-key": "lost"}, {}, "there is no file"),
        ({"tokenFile": "lost"}, {}, "lost"),
        ({"client-key-data": "%"}, {}, "no base64"),
        ({}, {"server": "a:6443"}, "cannot use the server 'a:6443'"),
        ({}, {"server": "https://ä"}, "cannot use the server"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_file(tmp_path, user, cluster, said):
    path = written(tmp_path, user, **cluster)
    with pytest.raises(SettingsError, match=said) as caught:
        load_credentials(path)
    assert path in str(caught.value)


def test_certificates_that_are_none_are_named(tmp_path):
    found = load_credentials(
        written(tmp_path, {}, **{"certificate-authority-data": encoded("nothing")})
    )
    with pytest.raises(SettingsError, match="cannot use the certificates"):
        found.tls()
