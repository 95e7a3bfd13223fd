"""Whose child a request is, whether it is traced, and what the next hop is told."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.message import Headers
from waypoint.core.trace_context import Context, Trace, begin, extract, inject

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("headers", "context"),
    [
        ({}, None),
        ({"traceparent": f"00-{TRACE}-{SPAN}-01"}, Context(TRACE, SPAN, True)),
        ({"traceparent": f"00-{TRACE}-{SPAN}-00"}, Context(TRACE, SPAN, False)),
        ({"traceparent": f"cc-{TRACE}-{SPAN}-01-more"}, Context(TRACE, SPAN, True)),
        ({"traceparent": f"00-{TRACE}-{SPAN}-01-more"}, None),
        ({"traceparent": f"ff-{TRACE}-{SPAN}-01"}, None),
        ({"traceparent": f"00-{'0' * 32}-{SPAN}-01"}, None),
        ({"traceparent": f"00-{TRACE.upper()}-{SPAN}-01"}, None),
        ({"traceparent": "junk", "b3": f"{TRACE}-{SPAN}-1"}, Context(TRACE, SPAN, True, True)),
        ({"b3": f"{TRACE}-{SPAN}-0-{SPAN}"}, Context(TRACE, SPAN, False, True)),
        ({"b3": f"{TRACE}-{SPAN}"}, Context(TRACE, SPAN, None, True)),
        ({"b3": f"{TRACE}-{SPAN}-d"}, Context(TRACE, SPAN, True, True)),
        ({"b3": "0"}, Context("", "", False, True)),
        ({"x-b3-traceid": TRACE[16:], "x-b3-spanid": SPAN, "x-b3-sampled": "1"},
         Context("0" * 16 + TRACE[16:], SPAN, True, True)),
        ({"x-b3-traceid": TRACE, "x-b3-spanid": SPAN, "x-b3-flags": "1"},
         Context(TRACE, SPAN, True, True)),
        ({"x-b3-sampled": "0"}, Context("", "", False, True)),
        ({"x-b3-traceid": "xyz", "x-b3-spanid": SPAN}, None),
    ],
)  # fmt: skip
def test_contexts_of_callers(headers, context):
    assert extract(Headers(headers.items())) == context


UUID = "7d8aabf9-2b2f-4c35-9d6e-8a2b4b1f0001"


def begun(headers=None, *, sampling=0.0, known_id=False, by_request_id=True, draw=0.5):
    ids = itertools.count(1)
    fields = Headers({"x-request-id": UUID, **(headers or {})}.items())
    trace = begin(
        fields,
        sampling=sampling,
        by_request_id=by_request_id,
        known_id=known_id,
        draw=lambda: draw,
        new_id=lambda digits: f"{next(ids):0{digits}x}",
    )
    return trace, fields


@pytest.mark.parametrize(
    ("headers", "more", "sampled"),
    [
        ({}, {"sampling": 100.0}, True),
        ({}, {"sampling": 0.0, "draw": 0.0}, False),
        ({}, {"sampling": 51.0}, True),
        ({}, {"sampling": 50.0}, False),
        ({"traceparent": f"00-{TRACE}-{SPAN}-01"}, {"sampling": 0.0}, True),
        ({"traceparent": f"00-{TRACE}-{SPAN}-00"}, {"sampling": 100.0}, False),
        ({"b3": "0"}, {"sampling": 100.0}, False),
        ({"x-envoy-force-trace": "1"}, {"sampling": 0.0}, True),
        ({"x-client-trace-id": "7"}, {"sampling": 0.0}, True),
        ({"x-request-id": UUID[:14] + "9" + UUID[15:]}, {"known_id": True}, True),
        ({"x-request-id": UUID[:14] + "9" + UUID[15:]}, {"known_id": False}, False),
        ({"x-request-id": UUID[:14] + "9" + UUID[15:]},
         {"known_id": True, "by_request_id": False}, False),
    ],
)  # fmt: skip
def test_whether_a_request_is_traced(headers, more, sampled):
    assert begun(headers, **more)[0].sampled is sampled


def test_the_decision_travels_in_the_request_id():
    assert begun(sampling=100.0)[1].first("x-request-id")[14] == "9"
    assert begun(sampling=0.0)[1].first("x-request-id")[14] == "4"
    kept = begun(sampling=100.0, by_request_id=False)[1]
    assert kept.first("x-request-id") == UUID
    assert begun({"x-request-id": "mine"}, sampling=100.0)[1].first("x-request-id") == "mine"


def test_a_child_belongs_to_its_callers_trace():
    trace, _ = begun({"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert trace == Trace(TRACE, f"{1:016x}", SPAN, True)
    assert begun(sampling=100.0)[0] == Trace(f"{1:032x}", f"{2:016x}", "", True)


def test_what_the_next_hop_is_told():
    trace = Trace(TRACE, SPAN, "1" * 16, True)
    w3c = Headers()
    inject(w3c, trace, w3c=True, b3=False)
    assert list(w3c) == [("traceparent", f"00-{TRACE}-{SPAN}-01")]
    multi = Headers([("b3", "x-y-1"), ("traceparent", "old")])
    inject(multi, trace, w3c=False, b3=True)
    assert dict(multi) == {
        "traceparent": "old",
        "x-b3-traceid": TRACE,
        "x-b3-spanid": SPAN,
        "x-b3-parentspanid": "1" * 16,
        "x-b3-sampled": "1",
    }
    spoken = Headers([("x-b3-sampled", "0")])
    inject(spoken, trace._replace(sampled=False), w3c=True, b3=False)
    assert spoken.first("traceparent").endswith("-00")
    assert spoken.first("x-b3-sampled") == "0"


@given(st.dictionaries(st.sampled_from(["traceparent", "b3", "x-b3-traceid", "x-b3-spanid",
                                        "x-b3-sampled", "x-b3-flags"]),
                       st.text(alphabet="0123456789abcdefd-x", max_size=60)))  # fmt: skip
def test_any_headers_are_read(headers):
    extract(Headers(headers.items()))
