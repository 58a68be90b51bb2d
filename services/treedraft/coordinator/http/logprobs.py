"""Log-probabilities in the forms of OpenAI's two APIs.

A token that is no whole text reads with replacement characters; a message's
entries have its bytes as well.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from treedraft.core.logprobs import TokenLogprobs
from treedraft.text.token_bytes import TokenBytes

Tokens = Sequence[tuple[int, TokenLogprobs]]


def message_logprobs(tokens: Tokens, words: TokenBytes) -> dict[str, Any]:
    """Return `logprobs` of a message, or of a part of it."""
    content = [
        _entry(token_id, told.logprob, words)
        | {"top_logprobs": [_entry(other, logprob, words) for other, logprob in told.top]}
        for token_id, told in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(token_id: int, logprob: float, words: TokenBytes) -> dict[str, Any]:
    data = words.bytes_of(token_id)
    return {"token": _read(data), "logprob": logprob, "bytes": list(data)}


def completion_logprobs(tokens: Tokens, words: TokenBytes, offset: int) -> dict[str, Any]:
    """Return `logprobs` of plain text that begins at this offset of the whole."""
    texts = [_read(words.bytes_of(token_id)) for token_id, _ in tokens]
    offsets = list(accumulate(map(len, texts), initial=offset))[:-1]
    return {
        "tokens": texts,
        "token_logprobs": [told.logprob for _, told in tokens],
        "top_logprobs": [
            {_read(words.bytes_of(other)): logprob for other, logprob in told.top}
            for _, told in tokens
        ],
        "text_offset": offsets,
    }


def _read(data: bytes) -> str:
    return data.decode(errors="replace")
