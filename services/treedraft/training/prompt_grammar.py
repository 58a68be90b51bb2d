"""The grammar of what people ask, read from `grammar_data`.

`requests.txt` holds requests that are complete; `openings.txt` first words that
the target goes on from, as it does from requests cut short; `pasted.txt`
instructions with the place of a pasted {text}; `words/*.txt` the lists that
slots draw from. All files are made of sections:

    # a remark
    [name]          in pasted.txt [name: kind kind], the kinds of text that fit
    a template or an entry in each line

Lists may have several entries in a line, with semicolons between them; `\\n` in
a template breaks the line. Categories are drawn evenly, then their templates.
Nothing here may be taken from, or written after, the held-out prompts.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from treedraft.training.grammar import Grammar

TEXT_SLOT = "{text}"
_DATA = Path(__file__).with_name("grammar_data")
_WORDS = "words/*.txt"
_CASUAL_SHARE = 0.1
_CUT_SHARE = 0.5
_MIN_WORDS = 3  # of a request that is cut short
# Stands for the text in a template that is drawn from.
_TEXT_MARKER = "\x1a"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A text drawn from the grammar, and the category of its template."""

    category: str
    text: str


class PromptGrammar:
    """Draws requests, openings and instructions."""

    def __init__(self, folder: Path = _DATA) -> None:
        """Read and check all files.

        Raises:
            ValueError: a file is malformed, or a template names what is not there.
        """
        words: dict[str, list[str]] = {}
        for path in sorted(folder.glob(_WORDS)):
            for name, lines in read_sections(path):
                if name in words:
                    raise ValueError(f"{path}: the list {name!r} is there already")
                entries = [entry.strip() for line in lines for entry in line.split(";")]
                words[name] = [entry for entry in entries if entry]
        self._grammar = Grammar(words)
        self.requests = _templates(folder / "requests.txt")
        self.openings = _templates(folder / "openings.txt")
        self._instructions = _instructions(folder / "pasted.txt")
        for templates in (self.requests, self.openings, *self._instructions.values()):
            self.count(templates)

    @property
    def kinds_of_text(self) -> tuple[str, ...]:
        """What kinds of text there are instructions for."""
        return tuple(sorted(self._instructions))

    def instructions(self, kind: str) -> Mapping[str, Sequence[str]]:
        """Return the templates of instructions for a kind of text, by category."""
        return self._instructions[kind]

    def count(self, templates: Mapping[str, Sequence[str]]) -> int:
        """Return how many ways there are to fill templates.

        Raises:
            ValueError: one of them is malformed.
        """
        return sum(
            self._grammar.count(template.replace(TEXT_SLOT, _TEXT_MARKER))
            for category in templates.values()
            for template in category
        )

    def request(self, random: np.random.Generator) -> Drawn:
        """Draw a complete request, now and then as carelessly written as people do."""
        drawn = self._draw(self.requests, random)
        if random.random() < _CASUAL_SHARE and "\n" not in drawn.text:
            casual = drawn.text[:1].lower() + drawn.text[1:].rstrip(".?")
            return Drawn(drawn.category, casual)
        return drawn

    def opening(self, random: np.random.Generator) -> Drawn:
        """Draw the first words of a request: such as are given, or a request cut short."""
        if random.random() < _CUT_SHARE:
            request = self._draw(self.requests, random)
            words = request.text.split(" ")
            if len(words) > _MIN_WORDS:
                num_kept = int(random.integers(_MIN_WORDS, len(words)))
                return Drawn(request.category, " ".join(words[:num_kept]))
        return self._draw(self.openings, random)

    def pasted(self, kind: str, text: str, random: np.random.Generator) -> Drawn:
        """Draw an instruction and put the text where it belongs."""
        drawn = self._draw(self._instructions[kind], random)
        return Drawn(drawn.category, drawn.text.replace(_TEXT_MARKER, text))

    def _draw(self, templates: Mapping[str, Sequence[str]], random: np.random.Generator) -> Drawn:
        categories = list(templates)
        category = categories[random.integers(len(categories))]
        chosen = templates[category]
        template = chosen[int(random.integers(len(chosen)))].replace(TEXT_SLOT, _TEXT_MARKER)
        return Drawn(category, self._grammar.draw(template, random))


@cache
def prompt_grammar() -> PromptGrammar:
    """Return the grammar that comes with the package."""
    return PromptGrammar()


def fingerprint() -> str:
    """Return a hash of all files of the grammar that comes with the package."""
    hashed = hashlib.sha256()
    for path in sorted(_DATA.rglob("*.txt")):
        hashed.update(path.relative_to(_DATA).as_posix().encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()


def read_sections(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the names and lines of a file's sections.

    Raises:
        ValueError: a section has no lines, or lines no section.
    """
    name, lines = "", list[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("[") and text.endswith("]"):
            if name and not lines:
                raise ValueError(f"{path}:{number}: nothing is in [{name}]")
            if name:
                yield name, lines
            name, lines = text[1:-1], []
        elif not name:
            raise ValueError(f"{path}:{number}: no section has begun")
        else:
            lines.append(text)
    if not lines:
        raise ValueError(f"{path}: it ends with an empty section")
    yield name, lines


def _templates(path: Path) -> dict[str, list[str]]:
    templates: dict[str, list[str]] = {}
    for category, lines in read_sections(path):
        templates.setdefault(category, []).extend(line.replace("\\n", "\n") for line in lines)
    return templates


def _instructions(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return templates by kind of text and category."""
    instructions: dict[str, dict[str, list[str]]] = {}
    for name, lines in read_sections(path):
        category, _, kinds = name.partition(":")
        templates = [line.replace("\\n", "\n") for line in lines]
        if not kinds.split() or any(template.count(TEXT_SLOT) != 1 for template in templates):
            raise ValueError(f"{path}: [{name}] lacks kinds, or a line lacks its one {TEXT_SLOT}")
        for kind in kinds.split():
            instructions.setdefault(kind, {}).setdefault(category, []).extend(templates)
    return instructions
