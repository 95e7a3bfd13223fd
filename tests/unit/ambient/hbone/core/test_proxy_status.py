"""A refusal's reason survives the way to the client, and nothing else does."""

from hypothesis import given
from hypothesis import strategies as st

from ambient.hbone.core.connect import ConnectResponse
from ambient.hbone.core.proxy_status import MAX_CHARS, PROXY_STATUS, denied, details, refusal

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=MAX_CHARS)


@given(PRINTABLE)
def test_a_reason_arrives_as_it_was(reason):
    assert details([denied(reason)]) == reason


@given(st.text(max_size=3000))
def test_whatever_a_peer_sends_is_one_short_line(value):
    told = details([("server", "x"), (PROXY_STATUS, value)])
    assert len(told) <= MAX_CHARS
    assert told.isprintable()


def test_the_client_hears_the_policy_and_where_to_look():
    error = refusal("10.0.0.1:80", ConnectResponse(401, (denied("denied by shop/no-web"),)))
    assert str(error) == "CONNECT 10.0.0.1:80 was refused with status 401: denied by shop/no-web"
    assert "authorization policy" in error.hint
    bare = refusal("a:1", ConnectResponse(503, ()))
    assert str(bare) == "CONNECT a:1 was refused with status 503"
