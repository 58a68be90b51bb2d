"""Hostile inputs made of good ones.

Two ways: bytes are flipped, cut, doubled and spliced with those of another input;
and a parsed message gets fields at their extremes, fields missing, elements twice
and in another order, which bytes alone would seldom bring past the parser.
"""

import random
import struct
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_INTERESTING = (b"\x00", b"\xff", b"\x80", b"\x7f", b"\xff" * 9 + b"\x01", b'"', b"[", b"{", b"\n")
_WHOLE = (0, 1, 2, 3, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1)
_LARGE = (*_WHOLE, 2**53, 2**63 - 1, 2**64 - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, float("inf"), -float("inf"), float("nan"))
_TEXTS = ("", "\0", "a" * 300, "…\U0001f600\u202e", "../../etc", "${jndi}", "%s%n")
_UNSIGNED_32 = {FieldDescriptor.CPPTYPE_UINT32}
_UNSIGNED_64 = {FieldDescriptor.CPPTYPE_UINT64}
_SIGNED = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
_FLOATING = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


def mutate_bytes(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """Return an input a few steps from `data`."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        place = rng.randint(0, len(out))
        match rng.randrange(6):
            case 0 if out:
                out[place % len(out)] ^= 1 << rng.randrange(8)
            case 1:
                out[place:place] = rng.choice(_INTERESTING)
            case 2:
                del out[place : place + rng.randint(1, 8)]
            case 3:
                out[place:place] = out[place : place + rng.randint(1, 32)]
            case 4:
                other = rng.choice(corpus)
                start = rng.randint(0, len(other))
                out[place:] = other[start:]
            case _:
                out[place : place + 4] = struct.pack("<I", rng.choice(_WHOLE))
    return bytes(out[:65536])


def mutate_message(message: Message, rng: random.Random) -> None:
    """Change a few fields of a message, or of one inside it."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        _mutate_once(message, rng)


def _mutate_once(message: Message, rng: random.Random) -> None:
    field = rng.choice(message.DESCRIPTOR.fields) if message.DESCRIPTOR.fields else None
    if field is None:
        return
    if field.message_type and field.message_type.GetOptions().map_entry:
        message.ClearField(field.name)
    elif field.is_repeated:
        _mutate_repeated(message, field, rng)
    elif field.message_type:
        if rng.random() < 0.2:
            message.ClearField(field.name)
        else:
            inner = getattr(message, field.name)
            inner.SetInParent()
            _mutate_once(inner, rng)
    elif rng.random() < 0.15:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(field, rng))


def _mutate_repeated(message: Message, field: FieldDescriptor, rng: random.Random) -> None:
    values = getattr(message, field.name)
    choice = rng.randrange(5)
    if choice == 0 and values:
        del values[rng.randrange(len(values))]
    elif choice == 1 and values:
        kept = list(values)
        rng.shuffle(kept)
        del values[:]
        values.extend(kept)
    elif field.message_type:
        if choice == 2 and values:
            values.append(rng.choice(list(values)))
        else:
            _mutate_once(rng.choice(list(values)) if values else values.add(), rng)
    else:
        count = rng.choice((1, 1, 2, 40))
        values.extend(_scalar(field, rng) for _ in range(count))


def _scalar(field: FieldDescriptor, rng: random.Random) -> Any:
    kind = field.cpp_type
    if kind in _UNSIGNED_32:
        return rng.choice(_WHOLE)
    if kind in _UNSIGNED_64:
        return rng.choice(_LARGE)
    if kind in _SIGNED:
        return rng.choice((-1, 0, 1, 2**31 - 1, -(2**31)))
    if kind in _FLOATING:
        return rng.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 4, 99, -1, 2**31 - 1))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice((b"", b"\0" * 32, b"\xff" * 31, b"x" * 300))
    return rng.choice(_TEXTS)
