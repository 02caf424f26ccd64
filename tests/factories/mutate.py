"""Byte-level mutation: small, seeded damage to real bytes. For the fuzz tests."""

from __future__ import annotations

import random
import struct

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with one to four pieces of damage: bits, lengths, cuts, copies, insertions."""
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not damaged:
            break
        chance.choice(_DAMAGE)(damaged, chance)
    return bytes(damaged)


def _flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _number(data: bytearray, chance: random.Random) -> None:
    form = chance.choice((">H", ">L", "<H", "<L", "B"))
    size = struct.calcsize(form)
    if len(data) >= size:
        at = chance.randrange(len(data) - size + 1)
        struct.pack_into(form, data, at, chance.choice(_NUMBERS) & (256**size - 1))


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def _drop(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.randint(1, 64)]


def _repeat(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    piece = bytes(data[at : at + chance.randint(1, 128)])
    data[at:at] = piece * chance.randint(1, 8)


def _insert(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.randbytes(chance.randint(1, 32))


_DAMAGE = (_flip, _flip, _number, _number, _cut, _drop, _repeat, _insert)
