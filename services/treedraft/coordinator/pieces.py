"""The text of an answer, token by token.

A coordinator shows text when it is certain: half a character and what may
become a stop string are kept back, and a stop string is never shown. The page
colours text by the token it came from, so each shown character has to be given
to a token: tokens are decoded one by one as the text was, and what is shown is
dealt out to them in order. All pieces together are the text, always.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from treedraft.core.growth import TokenSource
from treedraft.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one token; `index` counts output tokens."""

    index: int
    source: TokenSource
    text: str


class TextPieces:
    """Deals the shown text of one answer out to its tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin before the first output token."""
        self._stream = tokenizer.stream()
        self._num_tokens = 0
        # Tokens whose text is not shown in full: index, source, what is left.
        self._waiting: deque[Piece] = deque()
        self._last = Piece(0, TokenSource.TARGET, "")

    def push(
        self, token_ids: Sequence[int], sources: Sequence[TokenSource], shown: str
    ) -> list[Piece]:
        """Take the tokens that became final and the text that is shown now."""
        for token_id, source in zip(token_ids, sources, strict=True):
            text = self._stream.push(token_id)
            self._waiting.append(Piece(self._num_tokens, source, text))
            self._num_tokens += 1
        pieces = []
        while shown and self._waiting:
            token = self._waiting.popleft()
            text, shown = shown[: len(token.text)], shown[len(token.text) :]
            left = token.text[len(text) :]
            self._last = Piece(token.index, token.source, text)
            if text:
                pieces.append(self._last)
            if left:
                self._waiting.appendleft(Piece(token.index, token.source, left))
        if shown:  # the end of the text: what was left of a broken character
            pieces.append(Piece(self._last.index, self._last.source, shown))
        return pieces


class TokenReader:
    """Reads single tokens as they would stand in a text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Read tokens of this tokenizer."""
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, int], str] = {}

    def read(self, token_id: int, before: int) -> str:
        """Return the text of a token that follows another one, special ones by name."""
        text = self._known.get((before, token_id))
        if text is None:
            lead = self._tokenizer.decode([before], skip_special=False)
            whole = self._tokenizer.decode([before, token_id], skip_special=False)
            # Bytes of one character read as one: then the token stands alone.
            follows = whole.startswith(lead) and len(whole) > len(lead)
            alone = self._tokenizer.decode([token_id], skip_special=False)
            text = whole[len(lead) :] if follows else alone
            self._known[before, token_id] = text
        return text
