"""Turns output tokens into the text that a client may see.

What could still become part of a character or of a stop string is kept back;
a stop string and all after it are never shown.
"""

from collections.abc import Mapping, Sequence

from treedraft.core.sampling import StoppingCriteria
from treedraft.text.stop_strings import StopStringScanner
from treedraft.text.tokenizer import Tokenizer


class TextOutput:
    """The text of one session."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_strings: Sequence[str] = (),
        *,
        min_tokens: int = 0,
        marks: Mapping[int, str] | None = None,
    ) -> None:
        """Begin before the first output token; in the first `min_tokens` nothing stops.

        `marks` are special tokens that are shown, and how.
        """
        self._marks = marks or {}
        self._num_bound = min_tokens
        self._stream = tokenizer.stream()
        self._scanner = StopStringScanner(stop_strings) if stop_strings else None
        self._is_stopped = False

    def push(self, token_ids: Sequence[int]) -> str:
        """Return the text that these tokens make showable."""
        return "".join(self._push(token_id) for token_id in token_ids)

    def finish(self) -> str:
        """Return what was kept back, now that no token follows."""
        text = self._show(self._stream.finish())
        if self._scanner is not None and not self._is_stopped:
            text += self._scanner.finish()
        return text

    def _push(self, token_id: int) -> str:
        if token_id in self._marks:
            text = self._stream.finish() + self._marks[token_id]
        else:
            text = self._stream.push(token_id)
        if self._num_bound:
            self._num_bound -= 1
            return text
        return self._show(text)

    def _show(self, text: str) -> str:
        if self._is_stopped:
            return ""
        if self._scanner is None:
            return text
        shown, self._is_stopped = self._scanner.push(text)
        return shown


def session_text(tokenizer: Tokenizer, stopping: StoppingCriteria) -> TextOutput:
    """Return the text of a session that begins, with what ends it."""
    return TextOutput(tokenizer, stopping.stop_strings, min_tokens=stopping.min_tokens)
