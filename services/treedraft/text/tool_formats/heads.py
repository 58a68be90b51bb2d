"""What stands before the arguments of a call, in a text that may not have come that far yet."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from treedraft.core.tools import MAX_TOOL_NAME_CHARS

_NAME_CHAR = "[A-Za-z0-9_-]"
_MAX_SPACES = 64


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a head: `whole` matches it, `open` what may still become it."""

    whole: re.Pattern[str]
    open: re.Pattern[str]


def words(*choices: str, is_optional: bool = False) -> Part:
    """Return a part that is one of some words, or nothing if it is optional."""
    whole = "|".join(map(re.escape, choices))
    begun = "|".join(map(prefixes, choices))
    return Part(re.compile(f"(?:{whole}){'?' if is_optional else ''}"), re.compile(f"(?:{begun})"))


def prefixes(word: str) -> str:
    """Return a pattern of what a word begins with, the whole word left out."""
    return "|".join(re.escape(word[:length]) for length in range(len(word)))


def name(quote: str = "") -> Part:
    """Return a part that is a tool's name, between quotes if they are given."""
    return Part(
        re.compile(f"{quote}(?P<name>{_NAME_CHAR}{{1,{MAX_TOOL_NAME_CHARS}}}){quote}"),
        re.compile(f"(?:{quote}{_NAME_CHAR}{{0,{MAX_TOOL_NAME_CHARS}}})?"),
    )


BEFORE_OBJECT = Part(re.compile(r"(?=\{)"), re.compile(""))

JSON_HEAD = (
    words("{"),
    words('"name"'),
    words(":"),
    name('"'),
    words(","),
    words('"arguments"', '"parameters"'),
    words(":"),
    BEFORE_OBJECT,
)
"""`{"name": "NAME", "arguments": `, before the brace that opens the arguments."""

_KEYS = ("name", "arguments", "parameters", "type", "function", "id")
OBJECT_HEAD = (words("{"), words(*(f'"{key}"' for key in _KEYS)))
"""How a call begins whose parts are in another order."""


@dataclass(frozen=True, slots=True)
class Head:
    """A head that was found: whose it is, and where it ends."""

    name: str
    end: int


def read_head(text: str, parts: Sequence[Part]) -> Head | Literal[False] | None:
    """Return the head that a text begins with; None if more text is needed, False if it is none."""
    position, found = 0, ""
    for part in parts:
        start = _skip_spaces(text, position)
        if part.open.fullmatch(text, start):
            return None
        match = part.whole.match(text, start)
        if match is None:
            return False
        position, found = match.end(), match.groupdict().get("name", found)
    return Head(found, position)


def _skip_spaces(text: str, position: int) -> int:
    end = position
    while end < len(text) and end - position < _MAX_SPACES and text[end].isspace():
        end += 1
    return end
