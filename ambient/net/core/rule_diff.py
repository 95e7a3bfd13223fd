"""What must change so that the rules in the kernel become the wanted ones.

A table whose chains are as wanted is left alone, a chain whose rules differ is refilled, and a
table with other chains than wanted is made anew; all of it is one nft transaction, so packets see
either the old rules or the new ones.
"""

from __future__ import annotations

import msgspec

from ambient.net.core.rules import Chain, ReplyRouting, Rule, Ruleset, Table


class AddTable(msgspec.Struct, frozen=True):
    table: str


class DeleteTable(msgspec.Struct, frozen=True):
    table: str


class AddChain(msgspec.Struct, frozen=True):
    """``chain`` without its rules; those follow as ``AddRule``."""

    table: str
    chain: Chain


class FlushChain(msgspec.Struct, frozen=True):
    """Remove the rules and keep the chain, with its hook."""

    table: str
    chain: str


class AddRule(msgspec.Struct, frozen=True):
    """Append a rule to a chain."""

    table: str
    chain: str
    rule: Rule


Command = AddTable | DeleteTable | AddChain | FlushChain | AddRule


class Change(msgspec.Struct, frozen=True):
    """Empty when nothing has to be done, and then false."""

    commands: tuple[Command, ...] = ()
    """One transaction, in this order."""
    add_routing: frozenset[ReplyRouting] = frozenset()
    remove_routing: frozenset[ReplyRouting] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.commands or self.add_routing or self.remove_routing)


def diff(wanted: Ruleset, present: Ruleset) -> Change:
    """The change that turns ``present`` into ``wanted``."""
    have = {table.name: table for table in present.tables}
    commands: list[Command] = []
    for table in wanted.tables:
        commands += _table_changes(table, have.pop(table.name, None))
    commands += [DeleteTable(name) for name in have]
    return Change(
        tuple(commands),
        wanted.routing - present.routing,
        present.routing - wanted.routing,
    )


def _table_changes(wanted: Table, present: Table | None) -> list[Command]:
    if present is None:
        return _create(wanted)
    have = {chain.name: chain for chain in present.chains}
    want = {chain.name: chain for chain in wanted.chains}
    if {name: _frame(chain) for name, chain in have.items()} != {
        name: _frame(chain) for name, chain in want.items()
    }:
        return [DeleteTable(wanted.name), *_create(wanted)]
    commands: list[Command] = []
    for name, chain in want.items():
        if have[name].rules != chain.rules:
            commands.append(FlushChain(wanted.name, name))
            commands += _fill(wanted.name, chain)
    return commands


def _create(table: Table) -> list[Command]:
    commands: list[Command] = [AddTable(table.name)]
    for chain in table.chains:
        commands.append(AddChain(table.name, _frame(chain)))
        commands += _fill(table.name, chain)
    return commands


def _fill(table: str, chain: Chain) -> list[Command]:
    return [AddRule(table, chain.name, rule) for rule in chain.rules]


def _frame(chain: Chain) -> Chain:
    return msgspec.structs.replace(chain, rules=())
