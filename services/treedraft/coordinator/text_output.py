"""Turns output tokens into the text that a client may see.

What could still become part of a character or of a stop string is kept back;
a stop string and all after it are never shown.
"""

from collections.abc import Sequence

from treedraft.text.stop_strings import StopStringScanner
from treedraft.text.tokenizer import Tokenizer


class TextOutput:
    """The text of one session."""

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str] = ()) -> None:
        """Begin before the first output token."""
        self._stream = tokenizer.stream()
        self._scanner = StopStringScanner(stop_strings) if stop_strings else None
        self._is_stopped = False

    def push(self, token_ids: Sequence[int]) -> str:
        """Return the text that these tokens make showable."""
        return "".join(self._show(self._stream.push(token_id)) for token_id in token_ids)

    def finish(self) -> str:
        """Return what was kept back, now that no token follows."""
        text = self._show(self._stream.finish())
        if self._scanner is not None and not self._is_stopped:
            text += self._scanner.finish()
        return text

    def _show(self, text: str) -> str:
        if self._is_stopped:
            return ""
        if self._scanner is None:
            return text
        shown, self._is_stopped = self._scanner.push(text)
        return shown
