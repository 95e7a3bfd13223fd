"""A small fuzzer: seeds are cut, joined, repeated and changed at random, reproducibly."""

from __future__ import annotations

import random
import time

MOST_BYTES = 70_000
INTERESTING = (0x00, 0x01, 0x0C, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFE, 0xFF)


def mutants(seeds, seed):
    """Endless; ``seed`` chooses the whole sequence."""
    chance = random.Random(seed)
    yield from seeds
    while True:
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 8)):
            _mutate(data, seeds, chance)
        yield bytes(data[:MOST_BYTES])


def run(target, seeds, *, seconds, seed=0, mutated=0):
    """Feed ``target`` for so long, all seeds and so many ``mutated`` at least; returns how many.

    A failure names its input.
    """
    least = len(seeds) + mutated
    end = time.monotonic() + seconds
    for count, data in enumerate(mutants(seeds, seed)):
        if count >= least and time.monotonic() >= end:
            return count
        try:
            target(data)
        except BaseException as error:
            error.add_note(f"seed {seed}, input {count}: {data[:400].hex()} ({len(data)} bytes)")
            raise
    raise AssertionError("unreachable")


def _mutate(data, seeds, chance):
    at = chance.randrange(len(data) + 1)
    match chance.randrange(7):
        case 0 if data:
            data[at % len(data)] = chance.choice(INTERESTING)
        case 1 if data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        case 2:
            del data[at:]
        case 3:
            del data[at : at + chance.randint(1, 16)]
        case 4:
            data[at:at] = chance.randbytes(chance.randint(1, 16))
        case 5:
            other = chance.choice(seeds)
            data[at:at] = other[chance.randrange(len(other)) :]
        case 6:
            data[at:at] = data[at : at + 64] * chance.randint(1, 20)
