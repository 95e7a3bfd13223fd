"""What a match costs and how its values are written for people."""

from ipaddress import ip_address, ip_network

from ambient.api.policy import Match, MatchKind, ServiceAccountMatch, StringMatch
from ambient.api.spiffe import Identity
from ambient.policy.core.match import Connection, actual, compile_match, facts_of, wanted_text

CONNECTION = Connection(
    Identity("td", "ns", "sa"), ip_address("10.0.0.1"), ip_address("10.0.0.2"), 80
)


def test_only_set_fields_are_tested_the_cheapest_first():
    match = Match(
        source_ips=(ip_network("10.0.0.0/8"),),
        not_destination_ports=(1,),
        principals=(StringMatch(MatchKind.PRESENCE),),
    )
    assert [t.field for t in compile_match(match)] == [
        "not_destination_ports",
        "principals",
        "source_ips",
    ]
    assert compile_match(Match()) == ()


def test_values_read_as_their_author_wrote_them():
    values = [
        StringMatch(MatchKind.EXACT, "a"),
        StringMatch(MatchKind.PREFIX, "a"),
        StringMatch(MatchKind.SUFFIX, "a"),
        StringMatch(MatchKind.PRESENCE),
        ServiceAccountMatch("n", "s"),
        ip_network("10.0.0.0/8"),
        80,
    ]
    assert wanted_text(values) == "a, a*, *a, *, n/s, 10.0.0.0/8, 80"


def test_what_a_connection_shows_in_each_field():
    facts = facts_of(CONNECTION)
    fields = (
        *("principals", "not_namespaces", "service_accounts"),
        *("source_ips", "destination_ips", "destination_ports"),
    )
    assert [actual(f, facts) for f in fields] == [
        *("td/ns/ns/sa/sa", "ns", "ns/sa", "10.0.0.1", "10.0.0.2", "80")
    ]
    nobody = facts_of(CONNECTION._replace(source=None))
    assert {actual(f, nobody) for f in fields[:3]} == {"no identity"}
