"""Log-probabilities of drawn tokens, for those who ask for them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from treedraft.core.logprobs import TokenLogprobs
from treedraft.inference.law import LawRow, processed_logits


def token_logprobs(
    target_logits: Tensor, rows: Sequence[LawRow], token_ids: Sequence[int], num_top: int
) -> tuple[TokenLogprobs, ...]:
    """Return what each row's law says of its token and of the most likely ones.

    Args:
        target_logits: float32 [num_rows, vocab].
        rows: their laws; greedy ones count at temperature 1.
        token_ids: the token drawn at each row.
        num_top: how many of the most likely tokens to tell; 0 for none.
    """
    logprobs = torch.log_softmax(processed_logits(target_logits, rows).double(), dim=-1)
    drawn = torch.tensor(token_ids, device=logprobs.device)[:, None]
    chosen = logprobs.gather(1, drawn)[:, 0].tolist()
    values, ids = logprobs.topk(min(num_top, logprobs.shape[-1]), dim=-1)
    is_possible = values.isfinite()
    return tuple(
        TokenLogprobs(
            chosen[row],
            tuple(
                zip(
                    ids[row][is_possible[row]].tolist(),
                    values[row][is_possible[row]].tolist(),
                    strict=True,
                )
            ),
        )
        for row in range(len(rows))
    )
