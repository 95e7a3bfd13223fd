"""The rules of a pod, as data; what the kernel makes of them is tested beside ``io/nft.py``."""

from __future__ import annotations

import pytest

from ambient.net.core.rules import (
    MANGLE_TABLE,
    RAW_TABLE,
    Bitwise,
    Chain,
    Compare,
    Load,
    Meta,
    Options,
    Payload,
    Redirect,
    Rule,
    Ruleset,
    SetCt,
    draining,
    enrolled,
)

VARIANTS = [
    Options(),
    Options(ipv6=False),
    Options(inbound=False),
    Options(dns=True),
    Options(virtual_interfaces=("tap0", "net1")),
]
FIRST_PACKET = (Payload("transport", 13, 1), Bitwise(b"\x17", b"\0"), Compare("eq", b"\x02"))


def chains(ruleset: Ruleset) -> dict[tuple[str, str], Chain]:
    return {(table.name, chain.name): chain for table in ruleset.tables for chain in table.chains}


def redirects(ruleset: Ruleset) -> list[Rule]:
    return [
        rule
        for chain in chains(ruleset).values()
        for rule in chain.rules
        if Redirect() in rule.steps
    ]


def contains(rule: Rule, steps: tuple[object, ...]) -> bool:
    length = len(steps)
    return any(rule.steps[i : i + length] == steps for i in range(len(rule.steps)))


def target(rule: Rule) -> int:
    (port,) = [step.data for step in rule.steps if isinstance(step, Load)]
    return int.from_bytes(port, "big")


@pytest.mark.parametrize("options", VARIANTS)
def test_only_the_first_packet_of_a_tcp_connection_is_redirected(options: Options) -> None:
    tcp = (Meta("l4proto"), Compare("eq", b"\x06"))
    for rule in redirects(enrolled(options)):
        assert contains(rule, FIRST_PACKET) or not contains(rule, tcp)


@pytest.mark.parametrize("options", VARIANTS)
def test_draining_redirects_nothing_and_keeps_what_replies_need(options: Options) -> None:
    whole, rest = enrolled(options), draining(options)
    assert redirects(rest) == []
    assert rest.routing == whole.routing
    hooks = {key: (chain.hook, chain.priority) for key, chain in chains(whole).items()}
    for key, chain in chains(rest).items():
        assert hooks[key] == (chain.hook, chain.priority), "a chain that goes away ends its flows"
    for name in ("prerouting", "output"):
        assert chains(rest)[MANGLE_TABLE, name].rules == chains(whole)[MANGLE_TABLE, name].rules


def test_targets() -> None:
    assert [target(rule) for rule in redirects(enrolled(Options()))] == [15006, 15001]
    bypass = enrolled(Options(inbound=False))
    assert [target(rule) for rule in redirects(bypass)] == [15001]
    assert chains(bypass)[MANGLE_TABLE, "input"].rules == ()
    captured = enrolled(Options(dns=True, virtual_interfaces=("tap0",)))
    assert [target(rule) for rule in redirects(captured)] == [15001, 15006, 15053, 15053, 15001]


@pytest.mark.parametrize("options", VARIANTS)
def test_connections_in_a_clients_name_have_a_zone_until_the_last_has_ended(
    options: Options,
) -> None:
    (zone, *_) = chains(enrolled(options))[RAW_TABLE, "output"].rules
    assert zone.steps[-2] == SetCt("zone", "original")
    assert chains(draining(options))[RAW_TABLE, "output"].rules == (zone,)


def test_without_ipv6_its_packets_are_left_alone() -> None:
    only_four = (Meta("nfproto"), Compare("eq", b"\x02"))
    four = enrolled(Options(ipv6=False))
    assert all(contains(rule, only_four) for rule in redirects(four))
    assert {each.version for each in four.routing} == {4}
    assert {each.version for each in enrolled(Options()).routing} == {4, 6}
