"""What must change so that the rules in the kernel become the wanted ones.

A table whose chains are as wanted is left alone, a chain whose rules differ is refilled, a set gets
and loses elements, and a table with other chains or sets than wanted is made anew; all of it is one
nft transaction, so packets see either the old rules or the new ones.
"""

from __future__ import annotations

import msgspec

from ambient.net.core.rules import (
    AddressSet,
    Chain,
    Element,
    ReplyRouting,
    Rule,
    Ruleset,
    Table,
)


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


class AddSet(msgspec.Struct, frozen=True):
    """``set`` without its elements; those follow as ``PutElement``."""

    table: str
    set: AddressSet


class PutElement(msgspec.Struct, frozen=True):
    """Make this the element for its address, whatever the set has for it now."""

    table: str
    set_name: str
    element: Element


class DropElement(msgspec.Struct, frozen=True):
    """Take the address out of the set; one that is not in it is fine."""

    table: str
    set_name: str
    element: Element


Command = (
    AddTable | DeleteTable | AddChain | FlushChain | AddRule | AddSet | PutElement | DropElement
)


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
    if wanted.routing is None:
        return Change(tuple(commands))
    routing = present.routing or frozenset()
    return Change(tuple(commands), wanted.routing - routing, routing - wanted.routing)


def _table_changes(wanted: Table, present: Table | None) -> list[Command]:
    if present is None:
        return _create(wanted)
    have = {chain.name: chain for chain in present.chains}
    want = {chain.name: chain for chain in wanted.chains}
    if {name: _frame(chain) for name, chain in have.items()} != {
        name: _frame(chain) for name, chain in want.items()
    } or {(each.name, each.version) for each in present.sets} != {
        (each.name, each.version) for each in wanted.sets
    }:
        return [DeleteTable(wanted.name), *_create(wanted)]
    held = {each.name: each.elements for each in present.sets}
    commands: list[Command] = []
    for each in wanted.sets:
        commands += _elements(wanted.name, each, held[each.name])
    for name, chain in want.items():
        if have[name].rules != chain.rules:
            commands.append(FlushChain(wanted.name, name))
            commands += _fill(wanted.name, chain)
    return commands


def _create(table: Table) -> list[Command]:
    commands: list[Command] = [AddTable(table.name)]
    for each in table.sets:
        commands.append(AddSet(table.name, msgspec.structs.replace(each, elements=frozenset())))
        commands += _elements(table.name, each, frozenset())
    for chain in table.chains:
        commands.append(AddChain(table.name, _frame(chain)))
        commands += _fill(table.name, chain)
    return commands


def _elements(table: str, wanted: AddressSet, present: frozenset[Element]) -> list[Command]:
    """An address that stays, under another owner, is put and not dropped."""
    stays = {element.ip for element in wanted.elements}
    gone = [element for element in present if element.ip not in stays]
    new = wanted.elements - present
    return [
        *(DropElement(table, wanted.name, element) for element in sorted(gone)),
        *(PutElement(table, wanted.name, element) for element in sorted(new)),
    ]


def _fill(table: str, chain: Chain) -> list[Command]:
    return [AddRule(table, chain.name, rule) for rule in chain.rules]


def _frame(chain: Chain) -> Chain:
    return msgspec.structs.replace(chain, rules=())
