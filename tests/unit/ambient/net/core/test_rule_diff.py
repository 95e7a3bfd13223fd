"""The difference between wanted and present rules."""

from __future__ import annotations

import msgspec
import pytest

from ambient.net.core.rule_diff import AddRule, Change, DeleteTable, FlushChain, diff
from ambient.net.core.rules import (
    ABSENT,
    NAT_TABLE,
    RAW_TABLE,
    Chain,
    Foreign,
    Options,
    Rule,
    Ruleset,
    Table,
    draining,
    enrolled,
)

FULL = enrolled(Options())


def kinds(change: Change) -> list[str]:
    return [type(command).__name__ for command in change.commands]


@pytest.mark.parametrize(
    "ruleset", [ABSENT, FULL, draining(Options()), enrolled(Options(dns=True))]
)
def test_nothing_changes_where_nothing_differs(ruleset: Ruleset) -> None:
    shuffled = Ruleset(
        tuple(Table(table.name, table.chains[::-1]) for table in ruleset.tables[::-1]),
        ruleset.routing,
    )
    assert not diff(ruleset, shuffled)


def test_from_nothing_everything_is_made() -> None:
    change = diff(FULL, ABSENT)
    assert kinds(change).count("AddTable") == 3
    assert kinds(change).count("AddChain") == 7
    assert change.add_routing == FULL.routing


def test_draining_only_empties_chains() -> None:
    change = diff(draining(Options()), FULL)
    assert {type(command) for command in change.commands} == {FlushChain}
    assert not change.add_routing
    assert not change.remove_routing


def test_enrolling_again_only_fills_them() -> None:
    assert set(kinds(diff(FULL, draining(Options())))) == {"FlushChain", "AddRule"}


def test_leaving_takes_everything() -> None:
    change = diff(ABSENT, FULL)
    assert set(kinds(change)) == {"DeleteTable"}
    assert change.remove_routing == FULL.routing


def test_half_a_routing_is_completed() -> None:
    (half, *_) = sorted(FULL.routing)
    change = diff(FULL, Ruleset(FULL.tables, frozenset({half})))
    assert change.add_routing == FULL.routing - {half}
    assert not change.commands


def test_a_rule_that_somebody_added_is_replaced() -> None:
    nat = next(table for table in FULL.tables if table.name == NAT_TABLE)
    changed = Table(
        nat.name, tuple(add(chain, Rule("", (Foreign("log"),))) for chain in nat.chains)
    )
    others = (table for table in FULL.tables if table is not nat)
    present = Ruleset((*others, changed), FULL.routing)
    change = diff(FULL, present)
    assert change.commands[0] == FlushChain(NAT_TABLE, "prerouting")
    assert {command.table for command in change.commands} == {NAT_TABLE}
    assert all(isinstance(command, FlushChain | AddRule) for command in change.commands)


def add(chain: Chain, rule: Rule) -> Chain:
    return msgspec.structs.replace(chain, rules=(*chain.rules, rule))


def test_a_table_with_other_chains_is_made_anew() -> None:
    istios = Table(
        NAT_TABLE, (Chain("istio-output", "", "", 0), Chain("output", "nat", "output", 0))
    )
    change = diff(FULL, Ruleset((FULL.tables[0], istios), FULL.routing))
    assert change.commands[0] == DeleteTable(NAT_TABLE)
    assert kinds(change)[1] == "AddTable"


def test_a_table_that_is_no_longer_wanted_goes() -> None:
    fewer = tuple(table for table in FULL.tables if table.name != RAW_TABLE)
    change = diff(Ruleset(fewer, FULL.routing), FULL)
    assert change.commands == (DeleteTable(RAW_TABLE),)
