"""Any bytes as a token, a key set, a trace context, a path template, a log format and CEL."""

from __future__ import annotations

from contextlib import suppress

from tests.unit.waypoint.core.test_authenticate import jwks, token
from waypoint.core.cel_expression import compile_expression
from waypoint.core.json_web_token import TokenError, read_keys, read_token
from waypoint.core.log_format import text_format
from waypoint.core.message import Headers
from waypoint.core.objects import UnusableError
from waypoint.core.path import Normalization, normalise_target
from waypoint.core.predicate import path_pattern_test
from waypoint.core.trace_context import extract

KEYS = read_keys(jwks("one"))
SEEDS = [
    token().encode(),
    jwks("one").encode(),
    f"00-{'a' * 32}-{'b' * 16}-01".encode(),
    b"/a/{*}/b/{**}",
    b"%REQ(X-A?:PATH):10% %START_TIME(%Y)%",
    b"response.code >= 400 && request.headers['x'] == 'y'",
]


def run(data):
    text = data.decode("latin-1")
    with suppress(TokenError):
        KEYS.verify(read_token(text))
    read_keys(data)
    for name in ("traceparent", "b3"):
        extract(Headers([(name, text)]))
    for how in Normalization:
        found = normalise_target(text, how)
        assert found is None or how is Normalization.NONE or "/../" not in found.partition("?")[0]
    with suppress(UnusableError):
        path_pattern_test(text, "f")("/a/b")
    with suppress(UnusableError):
        text_format(text, "f")
    with suppress(UnusableError):
        compile_expression(text, "f")
