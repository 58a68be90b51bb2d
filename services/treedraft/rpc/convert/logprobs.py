"""Log-probabilities of tokens, as flat arrays."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from treedraft.core.errors import InvalidRequestError
from treedraft.core.logprobs import TokenLogprobs
from treedraft.v1 import target_service_pb2


def logprobs_to_proto(tokens: Sequence[TokenLogprobs]) -> target_service_pb2.TokenLogprobs | None:
    """Return the wire form, one element per token; None for none. They become float32."""
    if not tokens:
        return None
    return target_service_pb2.TokenLogprobs(
        logprobs=[token.logprob for token in tokens],
        top_counts=[len(token.top) for token in tokens],
        top_token_ids=[token_id for token in tokens for token_id, _ in token.top],
        top_logprobs=[logprob for token in tokens for _, logprob in token.top],
    )


def logprobs_from_proto(
    message: target_service_pb2.TokenLogprobs, num_tokens: int
) -> tuple[TokenLogprobs, ...]:
    """Return the log-probabilities of so many tokens; none if the message has none.

    Raises:
        InvalidRequestError: the arrays do not fit each other or the tokens.
    """
    if not message.logprobs:
        return ()
    ends = list(accumulate(message.top_counts, initial=0))
    if not (
        len(message.logprobs) == len(message.top_counts) == num_tokens
        and len(message.top_token_ids) == len(message.top_logprobs) == ends[-1]
    ):
        raise InvalidRequestError("log-probabilities do not fit their tokens", field="logprobs")
    top = list(zip(message.top_token_ids, message.top_logprobs, strict=True))
    return tuple(
        TokenLogprobs(logprob, tuple(top[start:end]))
        for logprob, (start, end) in zip(message.logprobs, pairwise(ends), strict=True)
    )
