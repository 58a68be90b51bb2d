"""Log-probabilities of emitted tokens, under the law that they were drawn from."""

from dataclasses import dataclass

from treedraft.core.errors import InvalidRequestError

MAX_LOGPROBS = 20
"""Most likely tokens that may be told with each token."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One emitted token: its log-probability, and the tokens that were most likely.

    The law is the one that the token was drawn from, with penalties, bias,
    grammar, temperature and cuts; a greedy draw tells the law of temperature 1.
    `top` is ordered, most likely first; tokens that were cut are not in it.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def check_num_logprobs(num_logprobs: int | None) -> None:
    """Raise InvalidRequestError for a number of alternatives that is not told."""
    if num_logprobs is not None and not 0 <= num_logprobs <= MAX_LOGPROBS:
        raise InvalidRequestError(
            f"num_logprobs must be in [0, {MAX_LOGPROBS}]", field="num_logprobs"
        )
