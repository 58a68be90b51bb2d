"""Says, token by token, whether a text ends.

Runs inside the walk: a token that ends the text also ends the round, however
much of the tree was accepted below it. Order: stop tokens, stop strings,
limits.
"""

from treedraft.core.sampling import StoppingCriteria
from treedraft.core.session import FinishReason
from treedraft.text.stop_strings import StopStringScanner
from treedraft.text.tokenizer import Tokenizer


class StopChecker:
    """Follows the output of one session."""

    def __init__(
        self,
        criteria: StoppingCriteria,
        *,
        eos_token_ids: frozenset[int],
        max_output_tokens: int,
        tokenizer: Tokenizer,
    ) -> None:
        """Watch for what ends the text; at most `max_output_tokens` come out."""
        limit = criteria.max_tokens or max_output_tokens
        self._num_bound = criteria.min_tokens
        self._tokens_left = min(limit, max_output_tokens)
        self._stop_ids = criteria.stop_token_ids
        if not criteria.ignore_eos:
            self._stop_ids |= eos_token_ids
        self._scanner = StopStringScanner(criteria.stop_strings) if criteria.stop_strings else None
        self._stream = tokenizer.stream() if criteria.stop_strings else None

    @property
    def forbidden_ids(self) -> frozenset[int]:
        """Tokens that would end the text and must not be drawn yet."""
        return self._stop_ids

    @property
    def num_bound(self) -> int:
        """Output tokens to come that must not end the text."""
        return self._num_bound

    @property
    def tokens_left(self) -> int:
        """Output tokens before the length limit."""
        return self._tokens_left

    def push(self, token_id: int) -> FinishReason | None:
        """Take the next output token; return why the text ends with it, if it does."""
        self._tokens_left -= 1
        if self._num_bound:
            self._num_bound -= 1
            if self._stream:
                self._stream.push(token_id)
            return FinishReason.LENGTH if self._tokens_left <= 0 else None
        if token_id in self._stop_ids:
            return FinishReason.STOP
        if self._scanner and self._stream:
            _, completed = self._scanner.push(self._stream.push(token_id))
            if completed:
                return FinishReason.STOP
        return FinishReason.LENGTH if self._tokens_left <= 0 else None
