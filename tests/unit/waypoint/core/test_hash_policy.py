"""What is hashed, and the cookies that are made for it."""

from __future__ import annotations

import pytest
import xxhash

from tests.unit.waypoint.sample import request
from waypoint.core.hash_policy import HashPolicy, cookie_value, hash64


def test_header_query_and_address():
    asked = request(target="/?user=anna&user=bo", headers={"x-user": "carl"})
    assert HashPolicy(header="x-user").key(asked).value == hash64("carl")
    assert HashPolicy(query="user").key(asked).value == hash64("anna")
    assert HashPolicy(source_ip=True).key(asked).value == hash64("10.0.9.9")
    assert HashPolicy(header="x-none").key(asked) is None
    assert HashPolicy(query="none").key(asked) is None
    asked.headers.add("x-user", "anna")
    assert HashPolicy(header="x-user").key(asked).value == hash64("anna,carl")
    asked.headers.add("x-forwarded-for", "1.1.1.1, 2.2.2.2")
    assert HashPolicy(source_ip=True).key(asked).value == hash64("2.2.2.2")


def test_hash_is_xxhash64():
    assert hash64("a") == xxhash.xxh64_intdigest(b"a", seed=0)


def test_a_cookie_is_made_where_it_has_a_lifetime():
    fresh = request()
    assert HashPolicy(cookie="user").key(fresh) is None
    policy = HashPolicy(
        cookie="user", path="/a", ttl_s=60.0, attributes=(("SameSite", "Strict"), ("Secure", ""))
    )
    key = policy.key(fresh)
    value, *rest = key.set_cookie.split("; ")
    assert rest == ["Max-Age=60", "Path=/a", "SameSite=Strict", "Secure", "HttpOnly"]
    assert policy.key(fresh) == key  # one connection, one cookie
    back = request(headers={"cookie": f"x=1; {value}"})
    assert policy.key(back) == (key.value, "")  # what it gets back leads to the same place
    session = HashPolicy(cookie="user", ttl_s=0.0).key(fresh).set_cookie
    assert session == f"{value}; HttpOnly"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (None, ""),
        ("a=1", "1"),
        ("b=2; a=1", "1"),
        ("b=2;a=1", "1"),
        ('a="1"', "1"),
        ("b=2,a=1", "1"),
        ("aa=1", ""),
        ("a", ""),
        ("a=1=2", "1=2"),
    ],
)
def test_cookies(header, value):
    assert cookie_value(header, "a") == value
