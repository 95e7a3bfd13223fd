"""Sessions come back, end, and cannot be forged into anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.waypoint.sample import request
from waypoint.core.message import Headers, Response
from waypoint.core.objects import UnusableError
from waypoint.core.session import Session, Visit, compile_session

AT = "10.0.0.1:9080"


def told(session, visit=None, now_s=1000.0, address=AT):
    response = Response(200, Headers())
    session.tell(response, address, visit, now_s)
    return response.headers


def back(session, headers, now_s):
    if session.header:
        return session.visit(request(headers=dict(headers)), now_s)
    cookie = headers.first("set-cookie").partition(";")[0]
    return session.visit(request(headers={"cookie": cookie}), now_s)


@pytest.mark.parametrize("header", [False, True])
def test_a_client_comes_back(header):
    session = Session(name="X-S" if header else "s", header=header)
    headers = told(session)
    visit = back(session, headers, 5000.0)
    assert visit == Visit(AT, 1000)
    assert not told(session, visit).items  # it knows already
    assert told(session, visit, address="10.0.0.2:9080").items


def test_sessions_end():
    session = Session(absolute_s=100.0)
    assert back(session, told(session), 1099.0) is not None
    assert back(session, told(session), 1100.0) is None
    session = Session(idle_s=10.0, absolute_s=100.0)
    headers = told(session)
    for now_s in range(1009, 1100, 9):
        visit = back(session, headers, now_s)
        assert visit == Visit(AT, 1000)
        headers = told(session, visit, now_s)
    assert back(session, headers, 1101) is None


def test_permanent_cookies_have_an_age():
    session = Session(absolute_s=100.0, permanent=True)
    assert "Max-Age=100" in told(session).first("set-cookie")
    assert "Max-Age" not in told(Session(absolute_s=100.0)).first("set-cookie")


@given(st.text(max_size=300))
def test_any_token_is_harmless(text):
    found = Session(header=True, name="s").visit(request(headers={"s": text}), 0.0)
    assert found is None or isinstance(found, Visit)


def test_reading():
    assert compile_session(None, "f") is None
    assert compile_session({}, "f") == Session()
    spec = {"sessionName": "a", "type": "Header", "absoluteTimeout": "1h", "idleTimeout": "5m"}
    want = Session(name="a", header=True, absolute_s=3600.0, idle_s=300.0)
    assert compile_session(spec, "f") == want
    for bad in ({"type": "Query"}, {"cookieConfig": {"lifetimeType": "Permanent"}}):
        with pytest.raises(UnusableError):
            compile_session(bad, "f")
