"""Which prompts are fit to train on.

A prompt must be text that someone could have sent, new, and no relative of a
held-out one: figures on held-out prompts mean nothing if training has seen
them. A relative shares a row of eight words, or half of its word trigrams,
with one of them.
"""

import re
from collections import Counter
from collections.abc import Iterable

_MIN_CHARACTERS = 12
_MIN_WORDS = 3
_SHARED_WORDS = 8
_SHINGLE_WORDS = 3
_MAX_SHARED_SHINGLES = 0.5
_WORD = re.compile(r"\w+")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_Shingle = tuple[str, ...]


class PromptFilter:
    """Takes prompts one after another; each is judged by those before it.

    `num_refused` counts the others by reason: `short`, `unprintable`, `duplicate`,
    `held_out`.
    """

    def __init__(self, held_out: Iterable[str]) -> None:
        """Keep away from the held-out prompts."""
        self.num_refused: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._held_out_rows: set[_Shingle] = set()
        self._held_out_shingles: set[_Shingle] = set()
        for text in held_out:
            words = _words(text)
            self._seen.add(" ".join(words))
            self._held_out_rows.update(_shingles(words, _SHARED_WORDS))
            self._held_out_shingles.update(_shingles(words, _SHINGLE_WORDS))

    def accepts(self, text: str) -> bool:
        """Return whether to keep a prompt; if so, it counts as seen from now on."""
        words = _words(text)
        reason = self._reason_to_refuse(text, words)
        if reason:
            self.num_refused[reason] += 1
            return False
        self._seen.add(" ".join(words))
        return True

    def _reason_to_refuse(self, text: str, words: list[str]) -> str:
        if len(text) < _MIN_CHARACTERS or len(words) < _MIN_WORDS:
            return "short"
        if not all(c.isprintable() or c in "\n\t" for c in text) or _REPLACEMENT in text:
            return "unprintable"
        if " ".join(words) in self._seen:
            return "duplicate"
        return "held_out" if self._is_like_held_out(words) else ""

    def _is_like_held_out(self, words: list[str]) -> bool:
        if any(row in self._held_out_rows for row in _shingles(words, _SHARED_WORDS)):
            return True
        shingles = _shingles(words, _SHINGLE_WORDS)
        num_shared = sum(shingle in self._held_out_shingles for shingle in shingles)
        return num_shared > _MAX_SHARED_SHINGLES * len(shingles)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _shingles(words: list[str], length: int) -> list[_Shingle]:
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
