"""What actions of rate limits make of a request, one row per form that Envoy knows."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.sample import AT, request
from waypoint.core.dispatch import Destination, Protocol
from waypoint.core.message import Headers
from waypoint.core.objects import UnusableError
from waypoint.core.rate_limit import Found, Override, costs, descriptors
from waypoint.core.rate_limit_config import read_rate_limits
from waypoint.core.record import Record

AUTHZ = "envoy.filters.http.ext_authz"
PEER = request().peer


def asked():
    made = request(
        target="/a?q=1&empty=",
        headers={
            "x-team": "blue",
            "x-size": "40",
            "x-empty": "",
            "x-cost": "7",
            "x-part": "2.9",
            "x-huge": "9000000000",
        },
    )
    made.claims = {"sub": "alice"}
    made.metadata = {AUTHZ: {"plan": {"requests_per_unit": 9.0, "unit": "HOUR"}, "tier": "gold"}}
    return made


def found(action, **more):
    rules = read_rate_limits([{"actions": [action], **more}], "f")
    return descriptors(rules, rules[0].stage, asked(), "c")


def header(**match):
    return {"header_value_match": {"descriptor_value": "v", "headers": [match]}}


def query(**match):
    return {"query_parameter_value_match": {"descriptor_value": "v", "query_parameters": [match]}}


def metadata(*path, key=AUTHZ, **more):
    segments = [{"key": one} for one in path]
    return {
        "metadata": {"descriptor_key": "m", "metadata_key": {"key": key, "path": segments}, **more}
    }


@pytest.mark.parametrize(
    ("action", "entry"),
    [
        ({"generic_key": {"descriptor_value": "v"}}, ("generic_key", "v")),
        ({"genericKey": {"descriptorKey": "k", "descriptorValue": "v"}}, ("k", "v")),
        ({"remote_address": {}}, ("remote_address", "10.0.9.9")),
        ({"masked_remote_address": {}}, ("masked_remote_address", "10.0.9.9/32")),
        ({"masked_remote_address": {"v4_prefix_mask_len": 16}},
         ("masked_remote_address", "10.0.0.0/16")),
        ({"source_cluster": {}}, ("source_cluster", "curl.shop")),
        ({"destination_cluster": {}}, ("destination_cluster", "c")),
        ({"request_headers": {"header_name": "X-Team", "descriptor_key": "t"}}, ("t", "blue")),
        ({"request_headers": {"header_name": "x-empty", "descriptor_key": "t"}}, ("t", "")),
        ({"request_headers": {"header_name": ":path", "descriptor_key": "p"}},
         ("p", "/a?q=1&empty=")),
        ({"request_headers": {"header_name": "x-none", "descriptor_key": "t"}}, None),
        ({"query_parameters": {"query_parameter_name": "q", "descriptor_key": "q"}}, ("q", "1")),
        ({"query_parameters": {"query_parameter_name": "z", "descriptor_key": "q"}}, None),
        (header(name=":path", string_match={"prefix": "/a"}), ("header_match", "v")),
        (header(name=":path", string_match={"prefix": "/b"}), None),
        (header(name="x-team", exact_match="blue"), ("header_match", "v")),
        (header(name="x-team", string_match={"exact": "BLUE", "ignore_case": True}),
         ("header_match", "v")),
        (header(name="x-team", string_match={"contains": "lu"}), ("header_match", "v")),
        (header(name="x-team", string_match={"suffix": "ue"}), ("header_match", "v")),
        (header(name="x-team", string_match={"safe_regex": {"regex": "b.*"}}),
         ("header_match", "v")),
        (header(name="x-team", string_match={"safe_regex": {"regex": "b"}}), None),
        (header(name="x-team", present_match=True), ("header_match", "v")),
        (header(name="x-team"), ("header_match", "v")),
        (header(name="x-none", present_match=True), None),
        (header(name="x-none", present_match=False), ("header_match", "v")),
        (header(name="x-team", present_match=False), None),
        (header(name="x-size", range_match={"start": 40, "end": "41"}), ("header_match", "v")),
        (header(name="x-size", range_match={"start": 10, "end": 40}), None),
        (header(name="x-team", range_match={"start": 10, "end": 40}), None),
        (header(name="x-none", exact_match="a", invert_match=True), ("header_match", "v")),
        (header(name="x-none", exact_match="", treat_missing_header_as_empty=True),
         ("header_match", "v")),
        (query(name="q", string_match={"exact": "1"}), ("query_match", "v")),
        (query(name="q", string_match={"exact": "2"}), None),
        (query(name="z", present_match=True), None),
        (metadata("payload", "sub", key="envoy.filters.http.jwt_authn"), ("m", "alice")),
        (metadata("tier"), ("m", "gold")),
        (metadata("none"), None),
        (metadata("none", default_value="d"), ("m", "d")),
    ],
)  # fmt: skip
def test_actions(action, entry):
    assert found(action) == (() if entry is None else (Found((entry,)),))


def test_what_is_absent_may_be_skipped():
    absent = {"header_name": "x-none", "descriptor_key": "t", "skip_if_absent": True}
    actions = [{"request_headers": absent}, {"generic_key": {"descriptor_value": "v"}}]
    rules = read_rate_limits([{"actions": actions}, {"actions": actions[:1]}], "f")
    assert descriptors(rules, 0, asked(), "c") == (Found((("generic_key", "v"),)),)


ANY = {"generic_key": {"descriptor_value": "v"}}


@pytest.mark.parametrize(
    ("given", "hits"),
    [
        ({"number": 3}, 3),
        ({"number": {"value": 0}}, 0),
        ({"format": "%REQ(x-cost)%"}, 7),
        ({"format": "%REQ(x-part)%"}, 2),  # as Envoy, which reads any decimal number
        (None, None),
    ],
)
def test_what_a_request_costs(given, hits):
    assert [one.hits for one in found(ANY, hits_addend=given)] == [hits]


@pytest.mark.parametrize("name", ["x-team", "x-none", "x-huge"])
def test_a_cost_that_is_no_number_or_too_large_makes_no_descriptor(name):
    assert found(ANY, hits_addend={"format": f"%REQ({name})%"}) == ()


def expression(text, **more):
    wrapped = {"@type": "type.googleapis.com/envoy.extensions.rate_limit_descriptors.expr.v3."
               "Descriptor", "descriptor_key": "e", "text": text, **more}  # fmt: skip
    return {"extension": {"name": "envoy.rate_limit_descriptors.expr", "typed_config": wrapped}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("request.method", "GET"),
        ("request.headers['x-team'] + '-' + request.url_path", "blue-/a"),
        ("int(request.headers['x-size']) > 30", "true"),
        ("connection.mtls ? connection.uri_san_peer_certificate : 'nobody'",
         "spiffe://cluster.local/ns/shop/sa/curl"),
        ("xds.cluster_name", "c"),
        ("metadata.filter_metadata['envoy.filters.http.ext_authz']['tier']", "gold"),
        ("request.headers['x-none']", None),
        ("source.address + 1", None),
    ],
)  # fmt: skip
def test_entries_by_expressions(text, value):
    expected = () if value is None else (Found((("e", value),)),)
    assert found(expression(text)) == expected
    actions = [expression(text, skip_if_error=True), ANY]
    both = ((("e", value),) if value is not None else ()) + (("generic_key", "v"),)
    rules = read_rate_limits([{"actions": actions}], "f")
    assert descriptors(rules, 0, asked(), "c") == (Found(both),)


def test_what_is_counted_at_the_end():
    done = {"actions": [ANY], "apply_on_stream_done": True}
    spent = {"hits_addend": {"format": "%RESP(x-tokens)%"}}
    rules = read_rate_limits([done, done | spent, done | {"hits_addend": {"number": 5}}], "f")
    assert descriptors(rules, 0, asked(), "c") == ()
    record = Record(peer=PEER, to=Destination(address=AT, protocol=Protocol.HTTP1))
    record.response_headers = Headers([("x-tokens", "40")])
    assert [one.hits for one in costs(rules, 0, asked(), "c", record)] == [1, 40, 5]
    record.response_headers = None
    assert [one.hits for one in costs(rules, 0, asked(), "c", record)] == [1, 5]


@pytest.mark.parametrize(("path", "limit"), [("plan", Override(9, 3)), ("tier", None), ("x", None)])
def test_a_limit_that_the_request_brings(path, limit):
    key = {"metadata_key": {"key": AUTHZ, "path": [{"key": path}]}}
    assert [one.override for one in found(ANY, limit={"dynamic_metadata": key})] == [limit]


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"actions": [{"teapot": {}}]},
        {"actions": [{"masked_remote_address": {"v4_prefix_mask_len": 33}}]},
        {"actions": [header()]},
        {"actions": [header(name="x", exact_match="a", prefix_match="b")]},
        {"actions": [header(name="x", string_match={"fuzzy": "a"})]},
        {"actions": [{"header_value_match": {"descriptor_value": "v"}}]},
        {"actions": [{"metadata": {"descriptor_key": "m"}}]},
        {"actions": [ANY], "stage": 11},
        {"actions": [ANY], "hits_addend": {"number": 1 << 40}},
        {"actions": [ANY], "hits_addend": {"format": "%NOPE%"}},
        {"actions": [ANY], "apply_on_stream_done": True, "hits_addend": {"format": "%NOPE%"}},
        {"actions": [expression("1 +")]},
        {"actions": [expression("1", descriptor_key="")]},
        {"actions": [{"extension": {"name": "envoy.teapot"}}]},
        {"actions": [metadata("tier", source="ROUTE_ENTRY")]},
        {"actions": [ANY], "limit": {}},
    ],
)
def test_what_cannot_be_followed_is_named(rule):
    with pytest.raises(UnusableError, match="f"):
        read_rate_limits([rule], "f")
