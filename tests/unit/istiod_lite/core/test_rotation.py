"""A root's whole life with the clock as an argument: nobody ever meets a root it does not trust."""

import ssl
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given, settings
from hypothesis import strategies as st

from istiod_lite.core import root_secret, rotation
from istiod_lite.core.certificates import Authority, UnusableError
from istiod_lite.core.rotation import RootState, Rules, Step
from tests.unit.istiod_lite.core.authorities import NOW, Ca

DAY = timedelta(days=1)
YEAR = 365 * DAY
RULES = Rules(grace_share=0.2, overlap=90 * DAY)


def step(state, now, rules=RULES):
    """Take what is due; the new state and the decision."""
    decision = rotation.decide(state, now, rules)
    match decision.step:
        case Step.ANNOUNCE:
            new = Ca(now=now, ttl=10 * YEAR)
            state = rotation.announced(state, new.pem, new.key_pem, now)
        case Step.SWITCH:
            state = rotation.switched(state, now)
        case Step.RETIRE:
            state = rotation.retired(state)
    return state, decision


def roots(state):
    return x509.load_pem_x509_certificates(state.material.roots)


def test_three_steps_with_time_in_between():
    state = RootState(Ca(ttl=10 * YEAR).material())
    old = roots(state)[0]
    seen = []
    now = NOW
    for _ in range(6):
        state, decision = step(state, now)
        if decision.step is not Step.KEEP:
            signer = Authority(state.material).certificate
            seen.append(
                (decision.step.value, round((now - NOW) / DAY), len(roots(state)), signer == old)
            )
        now = max(decision.look_again, now)
    announced, switched = 8 * 365, 8 * 365 + 90
    assert seen == [
        ("announce", announced, 2, True),
        ("switch", switched, 2, False),
        ("retire", switched + 90, 1, False),
    ]
    # The new root starts the same life again.
    assert rotation.decide(state, now, RULES).step is Step.KEEP
    assert (rotation.decide(state, now, RULES).look_again - now) > 7 * YEAR


def leaf(state, now):
    key = ec.generate_private_key(ec.SECP256R1())
    chain = Authority(state.material).serving(["a.b"], key, now=now, serial=5)
    return x509.load_pem_x509_certificates(chain.encode())[0], state.material.roots


def trusts(bundle, certificate, now):
    verifier = PolicyBuilder().store(Store(x509.load_pem_x509_certificates(bundle))).time(now)
    try:
        return bool(verifier.build_server_verifier(x509.DNSName("a.b")).verify(certificate, []))
    except x509.verification.VerificationError:
        return False


@settings(max_examples=15, deadline=None)
@given(
    life_days=st.integers(1, 4000),
    renewals=st.lists(st.floats(0.05, 0.95), min_size=4, max_size=12),
)
def test_whoever_renews_within_the_overlap_always_trusts_everybody(life_days, renewals):
    """Two clients, any renewal times inside the life of a leaf, which is at most the overlap."""
    now = NOW
    state = RootState(Ca(now=now, ttl=life_days * DAY).material())
    held = [leaf(state, now), leaf(state, now)]
    for number, share in enumerate(renewals):
        for _ in range(3):  # every due step is taken at once
            state, decision = step(state, now)
            if decision.step is Step.KEEP:
                break
        held[number % 2] = leaf(state, now)
        for mine, bundle in held:
            assert mine.not_valid_after_utc > now
            for theirs, _ in held:
                assert trusts(bundle, theirs, now)
        lasting = min(one.not_valid_after_utc for one, _ in held) - now
        until_step = rotation.decide(state, now, RULES).look_again - now
        now += min(lasting, max(until_step, timedelta(seconds=1))) * share


def test_a_root_that_ended_while_nobody_looked_is_replaced_at_once():
    state = RootState(Ca(ttl=DAY).material())
    late = NOW + 3 * DAY
    steps = []
    for _ in range(4):
        state, decision = step(state, late)
        steps.append(decision.step)
    assert steps == [Step.ANNOUNCE, Step.SWITCH, Step.RETIRE, Step.KEEP]


def test_both_roots_verify_in_openssl_although_they_share_a_name(tmp_path):
    old, new = Ca(), Ca()
    state = rotation.announced(RootState(old.material()), new.pem, new.key_pem, NOW)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=state.material.roots.decode())
    assert len(context.get_ca_certs()) == 2
    before, _ = leaf(state, NOW)
    after, bundle = leaf(rotation.switched(state, NOW), NOW)
    assert trusts(bundle, before, NOW)
    assert trusts(bundle, after, NOW)


def test_the_secret_keeps_every_state_and_nothing_prints_a_key():
    old, new = Ca(), Ca()
    state = RootState(old.material())
    secret = root_secret.write(state, "istio-system")
    for change in (
        lambda one: rotation.announced(one, new.pem, new.key_pem, NOW),
        lambda one: rotation.switched(one, NOW + DAY),
        rotation.retired,
    ):
        state = change(state)
        secret = root_secret.write(state, "istio-system", secret)
        assert root_secret.read(secret) == state
        assert "PRIVATE" not in repr(state)
        assert "PRIVATE" not in repr(state.material)
    assert secret["metadata"]["annotations"] == {}
    # Istio finds its three entries, and they fit together.
    assert set(secret["data"]) >= {"ca-cert.pem", "ca-key.pem", "root-cert.pem"}


def test_roots_that_an_operator_added_stay():
    state = RootState(Ca().material())
    partner = Ca("partner.example")
    both = state.material._replace(roots=state.material.roots + partner.pem)
    new = Ca()
    state = rotation.announced(state._replace(material=both), new.pem, new.key_pem, NOW)
    state = rotation.retired(rotation.switched(state, NOW))
    assert roots(state) == [partner.certificate, new.certificate]


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ({"data": {"ca-cert.pem": "AAAA"}}, "ca-key.pem, root-cert.pem"),
        ({"metadata": {"name": "x"}, "data": {"ca-cert.pem": "%"}}, "base64"),
        ({"data": dict.fromkeys(("ca-cert.pem", "ca-key.pem", "root-cert.pem"), "AAAA")}, "PEM"),
    ],
)
def test_secrets_that_cannot_be_used(secret, said):
    with pytest.raises(UnusableError, match=said):
        root_secret.read(secret)
