"""gRPC's rules for proxies, as tables."""

import pytest

from waypoint.core.grpc import is_grpc, status_of_http, timeout_s, timeout_text, trailers_only
from waypoint.core.message import Headers, Reply


@pytest.mark.parametrize(
    ("content_type", "found"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc;charset=x", True),
        ("application/grpc-web", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_what_is_grpc(content_type, found):
    assert is_grpc(Headers([("content-type", content_type)])) is found
    assert not is_grpc(Headers())


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, 0),
        (400, 13),
        (401, 16),
        (403, 7),
        (404, 12),
        (429, 14),
        (502, 14),
        (503, 14),
        (504, 14),
        (500, 2),
        (418, 2),
        (301, 2),
    ],
)
def test_statuses_of_http(status, code):
    assert status_of_http(status) == code


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("1H", 3600),
        ("2M", 120),
        ("3S", 3),
        ("50m", 0.05),
        ("7u", 7e-6),
        ("9n", 9e-9),
        ("99999999S", 99_999_999),
        ("999999999S", None),
        ("S", None),
        ("5", None),
        ("5x", None),
        ("-1S", None),
        ("1.5S", None),
        ("٣S", None),
        ("", None),
    ],
)
def test_deadlines(said, seconds):
    found = timeout_s(Headers([("grpc-timeout", said)]))
    assert found == (seconds if seconds is None else pytest.approx(seconds))


def test_a_local_reply_becomes_trailers_only():
    reply = trailers_only(Reply(503, "no 100% upstream\n", "UH", "d", (("x-a", "b"),)))
    assert (reply.status, reply.body, reply.flag) == (200, "", "UH")
    assert dict(reply.headers) == {
        "x-a": "b",
        "content-type": "application/grpc",
        "grpc-status": "14",
        "grpc-message": "no 100%25 upstream%0A",
    }
    kept = trailers_only(Reply(200, "", headers=(("grpc-status", "5"),)))
    assert dict(kept.headers)["grpc-status"] == "5"


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (1, "1m"),
        (99_999_999, "99999999m"),
        (100_000_000, "100000S"),
        (100_000_000_000, "1666666M"),
        (10**13, "2777777H"),
        (10**30, "99999999H"),
    ],
)
def test_a_timeout_has_eight_digits(milliseconds, text):
    assert timeout_text(milliseconds) == text
