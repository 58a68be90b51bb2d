"""Templates with slots over lists of words: a small grammar that prompts are drawn from.

In a template, braces hold what is drawn:

    {animal}      an entry of the list `animal`, which may hold slots itself
    {a animal}    the same behind `a` or `an`; {Animal} begins with a capital
    {2-12}        a whole number
    {red|blue|}   one of these, each a template; the last one here is empty

No entry without slots is drawn twice for one prompt, if there are others.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

_RANGE = re.compile(r"(\d+)-(\d+)")
_REFERENCE = re.compile(r"(?:(a) )?([A-Za-z]\w*)")
_WANTS_AN = re.compile(
    r"[aeiou]|hour|honest|heir|honour|(?:8|11|18|R|SQL|HTML|HTTP)\b", re.IGNORECASE
)
_WANTS_A = re.compile(r"uni(?!m|n)|us[eu]|eu|one\b|once|ukulele|ut[io]", re.IGNORECASE)
_MAX_REDRAWS = 20


@dataclass(frozen=True, slots=True)
class _Number:
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class _Reference:
    name: str
    has_article: bool
    is_capital: bool


@dataclass(frozen=True, slots=True)
class _Choice:
    alternatives: tuple["_Sequence", ...]


_Part = str | _Number | _Reference | _Choice
_Sequence = tuple[_Part, ...]


class Grammar:
    """Lists of words, and the templates that draw from them."""

    def __init__(self, words: Mapping[str, Sequence[str]]) -> None:
        """Parse all lists.

        Raises:
            ValueError: a template is malformed, a list is missing or holds itself.
        """
        self._lists = {
            name: tuple(parse_template(entry) for entry in entries)
            for name, entries in words.items()
        }
        self._counts: dict[str, int] = {}
        for name in words:
            self._count_of_list(name, ())

    def count(self, template: str) -> int:
        """Return how many ways there are to fill a template.

        Raises:
            ValueError: as for the grammar.
        """
        return self._count(parse_template(template), ())

    def draw(self, template: str, random: np.random.Generator) -> str:
        """Return a template with its slots filled."""
        return self._draw(parse_template(template), random, set())

    def _draw(self, sequence: _Sequence, random: np.random.Generator, used: set[_Sequence]) -> str:
        return "".join(self._draw_part(part, random, used) for part in sequence)

    def _draw_part(self, part: _Part, random: np.random.Generator, used: set[_Sequence]) -> str:
        match part:
            case str():
                return part
            case _Number(low, high):
                return str(random.integers(low, high + 1))
            case _Choice(alternatives):
                return self._draw(alternatives[random.integers(len(alternatives))], random, used)
            case _Reference(name, has_article, is_capital):
                entries = self._lists[name]
                for _ in range(_MAX_REDRAWS):
                    entry = entries[random.integers(len(entries))]
                    if entry not in used:
                        break
                if all(isinstance(one, str) for one in entry):
                    used.add(entry)
                text = self._draw(entry, random, used)
                text = _with_article(text) if has_article else text
                return text[:1].upper() + text[1:] if is_capital else text

    def _count(self, sequence: _Sequence, within: tuple[str, ...]) -> int:
        return prod(self._count_part(part, within) for part in sequence)

    def _count_part(self, part: _Part, within: tuple[str, ...]) -> int:
        match part:
            case str():
                return 1
            case _Number(low, high):
                return high - low + 1
            case _Choice(alternatives):
                return sum(self._count(one, within) for one in alternatives)
            case _Reference(name, _, _):
                return self._count_of_list(name, within)

    def _count_of_list(self, name: str, within: tuple[str, ...]) -> int:
        if name in within:
            raise ValueError(f"the list {name!r} holds itself: {' > '.join((*within, name))}")
        if not self._lists.get(name):
            raise ValueError(f"there is no list {name!r}, or nothing is in it")
        if name not in self._counts:
            entries = self._lists[name]
            self._counts[name] = sum(self._count(entry, (*within, name)) for entry in entries)
        return self._counts[name]


def parse_template(text: str) -> _Sequence:
    """Return the parts of a template.

    Raises:
        ValueError: its braces do not match, or hold what nobody understands.
    """
    parts: list[_Part] = []
    start = depth = 0
    for place, character in enumerate(text):
        if character == "{":
            if not depth and place > start:
                parts.append(text[start:place])
            start = start if depth else place + 1
            depth += 1
        elif character == "}":
            depth -= 1
            if depth < 0:
                break
            if not depth:
                parts.append(_parse_slot(text[start:place]))
                start = place + 1
    if depth:
        raise ValueError(f"braces do not match in {text!r}")
    if start < len(text):
        parts.append(text[start:])
    return tuple(parts)


def _parse_slot(inner: str) -> _Part:
    alternatives = _split_alternatives(inner)
    if len(alternatives) > 1:
        return _Choice(tuple(parse_template(one) for one in alternatives))
    if numbers := _RANGE.fullmatch(inner):
        low, high = map(int, numbers.groups())
        if low > high:
            raise ValueError(f"no number is in {{{inner}}}")
        return _Number(low, high)
    if reference := _REFERENCE.fullmatch(inner):
        article, name = reference.groups()
        return _Reference(name.lower(), bool(article), name[0].isupper())
    raise ValueError(f"nobody understands {{{inner}}}")


def _split_alternatives(inner: str) -> list[str]:
    alternatives, depth = [""], 0
    for character in inner:
        depth += (character == "{") - (character == "}")
        if character == "|" and not depth:
            alternatives.append("")
        else:
            alternatives[-1] += character
    return alternatives


def _with_article(text: str) -> str:
    wants_an = _WANTS_AN.match(text) and not _WANTS_A.match(text)
    return f"{'an' if wants_an else 'a'} {text}"
