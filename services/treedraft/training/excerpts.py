"""Pieces of text that people would paste into a prompt, cut out of longer text.

A piece is whole lines or whole sentences, and neither tiny nor long. What kind
it is decides which instructions fit it: `code`, `list`, `dialogue`, `letter`,
`prose`, `sentence`; `mistakes` and `bugs` are a sentence or code with something
put wrong, since people ask for corrections of what is not correct.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_MIN_TOKENS = 20
_MIN_SENTENCE_TOKENS = 8
_MIN_ROWS = 3
_FENCE = re.compile(r"```(\w*)\n(.*?)(?:```|\Z)", re.DOTALL)
_ROW = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+\S")
_SPEECH = re.compile(r"\s*(?:\*\*)?[A-Z][\w .]{0,24}:(?:\*\*)?\s*\S")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_LETTERS = "letters"
_UNFENCED_SHARE = 0.3

CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A piece of text and what kind of text it is."""

    kind: str
    text: str


def cut_excerpts(
    text: str,
    category: str,
    max_tokens: int,
    count_tokens: CountTokens,
    random: np.random.Generator,
) -> list[Excerpt]:
    """Return pieces of a text, of all the kinds that it offers.

    Args:
        text: an answer, as a chat model writes it.
        category: of the request that it answers.
        max_tokens: of a piece.
        count_tokens: of a string.
        random: of what is put wrong.
    """
    cut = _Cutter(max_tokens, count_tokens)
    found: list[Excerpt] = []
    for block in _FENCE.finditer(text):
        if code := cut.of_parts(block.group(2).rstrip().split("\n"), "\n"):
            for kind, body in (("code", code), ("bugs", with_bug(code, random))):
                is_fenced = random.random() >= _UNFENCED_SHARE
                fenced = f"```{block.group(1)}\n{body}\n```"
                found.append(Excerpt(kind, fenced if is_fenced else body))
    plain = _FENCE.sub("\n\n", text)
    if category == _LETTERS and (letter := cut.of_parts(plain.strip().split("\n"), "\n")):
        return [*found, Excerpt("letter", letter)]
    for paragraph in re.split(r"\n\s*\n", plain):
        found += _of_paragraph(paragraph.strip(), cut, random)
    rows = [line for line in plain.split("\n") if line.strip()]
    for kind, pattern in (("list", _ROW), ("dialogue", _SPEECH)):
        lines = [line for line in rows if pattern.match(line)]
        if len(lines) >= _MIN_ROWS and (piece := cut.of_parts(lines, "\n")):
            found.append(Excerpt(kind, piece))
    return found


def with_mistakes(sentence: str, random: np.random.Generator) -> str:
    """Return a sentence with one to three mistakes of spelling or grammar."""
    words = sentence.split(" ")
    for _ in range(random.integers(1, 4)):
        place = int(random.integers(len(words)))
        word = words[place]
        match int(random.integers(5)):
            case 0 if len(word) > 3:
                i = int(random.integers(1, len(word) - 2))
                words[place] = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
            case 1 if len(word) > 4:
                i = int(random.integers(1, len(word) - 1))
                words[place] = word[:i] + word[i + 1 :]
            case 2 if any(other in _LITTLE_WORDS for other in words):
                words = _without(words, next(o for o in words if o in _LITTLE_WORDS))
            case 3:
                words = [_CONFUSED.get(other, other) for other in words]
            case _:
                words = [other.rstrip(",") for other in words]
                words[0] = words[0][:1].lower() + words[0][1:]
    return " ".join(words)


def with_bug(code: str, random: np.random.Generator) -> str:
    """Return code with one thing wrong, or as it is if it offers no place."""
    present = [pair for pair in _BUGS if pair[0] in code]
    if not present:
        return code
    right, wrong = present[random.integers(len(present))]
    parts = code.split(right)
    place = int(random.integers(1, len(parts)))
    return right.join(parts[:place]) + wrong + right.join(parts[place:])


_LITTLE_WORDS = frozenset(("a", "an", "the", "of", "to", "is", "are"))
_CONFUSED = {
    "is": "are",
    "are": "is",
    "was": "were",
    "were": "was",
    "has": "have",
    "have": "has",
    "their": "there",
    "its": "it's",
    "than": "then",
    "your": "you're",
    "does": "do",
    "much": "many",
}
_BUGS = (
    (" == ", " = "),
    (" <= ", " < "),
    (" < ", " <= "),
    (" > ", " >= "),
    (" + ", " - "),
    (" - 1", ""),
    (" + 1", ""),
    ("):\n", ")\n"),
    (";\n", "\n"),
    ("range(", "range(1, "),
    ("[0]", "[1]"),
    (" and ", " or "),
    (" not ", " "),
    ("return ", ""),
    (" += ", " = "),
    ("True", "False"),
)


def _without(words: list[str], word: str) -> list[str]:
    place = words.index(word)
    return words[:place] + words[place + 1 :]


def _of_paragraph(paragraph: str, cut: "_Cutter", random: np.random.Generator) -> list[Excerpt]:
    if "\n" in paragraph or _ROW.match(paragraph) or paragraph.startswith("#"):
        return []
    sentences = _SENTENCE_END.split(paragraph)
    if not sentences[-1].endswith((".", "!", "?", '"', "”")):
        sentences.pop()
    found: list[Excerpt] = []
    if prose := cut.of_parts(sentences, " "):
        found.append(Excerpt("prose", prose))
    if sentences:
        chosen = sentences[random.integers(len(sentences))]
        if _MIN_SENTENCE_TOKENS <= cut.count_tokens(chosen) <= cut.max_tokens:
            found.append(Excerpt("sentence", chosen))
            found.append(Excerpt("mistakes", with_mistakes(chosen, random)))
    return found


@dataclass(frozen=True, slots=True)
class _Cutter:
    max_tokens: int
    count_tokens: CountTokens

    def of_parts(self, parts: list[str], joint: str) -> str:
        """Return as many of the first parts as fit; nothing if that is too little."""
        kept: list[str] = []
        num_tokens = 0
        for part in parts:
            num_tokens += self.count_tokens(part + joint)
            if num_tokens > self.max_tokens:
                break
            kept.append(part)
        text = joint.join(kept).rstrip()
        return text if text and self.count_tokens(text) >= _MIN_TOKENS else ""
