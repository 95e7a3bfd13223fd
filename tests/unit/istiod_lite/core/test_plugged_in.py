"""A plugged-in authority: which files make one, and which successor a running mesh accepts."""

import pytest

from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity
from ambient.identity.core.csr import new_key_and_csr
from istiod_lite.core import plugged_in
from istiod_lite.core.certificates import DEFAULT_TTL
from tests.unit.istiod_lite.core.authorities import NOW, Ca, cacerts

WEB = Identity("cluster.local", "shop", "web")
ROOT, OTHER, THIRD = Ca("root"), Ca("other"), Ca("third")
MIDDLE = ROOT.below("middle")
SIGNER = MIDDLE.below("signer")
PLACE = "Secret istio-system/cacerts"


def test_the_chain_goes_out_leaf_first_and_the_bundle_whole():
    authority = plugged_in.read(cacerts(ROOT, SIGNER, more_roots=[OTHER]), PLACE)
    _, csr = new_key_and_csr(WEB)
    leaf, signer, middle, bundle = authority.issue(
        csr.decode(), WEB, DEFAULT_TTL, now=NOW, serial=3
    )
    assert leaf.startswith("-----BEGIN CERTIFICATE")
    assert (signer.encode(), middle.encode()) == (SIGNER.pem, MIDDLE.pem)
    assert bundle.encode() == ROOT.pem + OTHER.pem
    assert authority.root_ends == ROOT.certificate.not_valid_after_utc


def test_the_layout_of_a_tls_secret():
    files = {"tls.crt": SIGNER.chain, "tls.key": SIGNER.key_pem, "ca.crt": ROOT.pem}
    assert plugged_in.is_there(files)
    authority = plugged_in.read(files, PLACE)
    assert authority.certificate == SIGNER.certificate
    assert authority.intermediates == (SIGNER.certificate, MIDDLE.certificate)


def test_a_crl_is_taken_along():
    authority = plugged_in.read(cacerts(ROOT, SIGNER, crl=SIGNER.crl()), PLACE)
    assert authority.crl_pem.startswith("-----BEGIN X509 CRL")


@pytest.mark.parametrize("missing", plugged_in.ISTIO_FILES)
def test_a_part_of_the_files_is_an_error_that_names_the_rest(missing):
    files = cacerts(ROOT, SIGNER)
    del files[missing]
    assert plugged_in.is_there(files)
    with pytest.raises(MeshError, match=f"incomplete: there is no {missing}") as caught:
        plugged_in.read(files, PLACE)
    assert PLACE in str(caught.value)


BROKEN = cacerts(ROOT, SIGNER)
LEAF = SIGNER.below("leaf", ca=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"root-cert.pem": OTHER.pem}, "does not lead"),
        ({"cert-chain.pem": b""}, "does not lead"),
        ({"ca-key.pem": OTHER.key_pem}, "does not belong"),
        ({"ca-cert.pem": LEAF.pem, "ca-key.pem": LEAF.key_pem}, "no CA certificate"),
        ({"ca-key.pem": b"-----BEGIN PRIVATE KEY-----\nAAAA"}, "no PEM"),
        ({"ca-crl.pem": b"nonsense"}, "no PEM"),
    ],
)
def test_files_that_do_not_fit_together(change, said):
    with pytest.raises(MeshError, match=said) as caught:
        plugged_in.read({**BROKEN, **change}, PLACE)
    assert "PRIVATE" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    ("before", "after", "multi_root", "said"),
    [
        ([ROOT], [ROOT], False, ""),
        ([ROOT], [ROOT, OTHER], False, "ISTIO_MULTIROOT_MESH"),
        ([ROOT], [ROOT, OTHER], True, ""),
        ([ROOT, OTHER], [ROOT], True, ""),
        ([ROOT, OTHER], [ROOT, THIRD], True, "neither"),
    ],
)
def test_which_successor_is_accepted(before, after, multi_root, said):
    old, new = (
        plugged_in.read(cacerts(ROOT, SIGNER, more_roots=some[1:]), PLACE)
        for some in (before, after)
    )
    reason = plugged_in.refusal(old, new, multi_root=multi_root)
    assert bool(reason) == bool(said)
    assert said in reason
