"""Passes of any model over whole texts, through the product's own runner."""

from collections.abc import Sequence

import numpy as np

from treedraft.inference.block_pool import SlotPool
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.models import LoadedModel
from treedraft.inference.runner import Runner
from treedraft.inference.segment import Segment


def make_runner(model: LoadedModel, num_slots: int) -> tuple[Runner, SlotPool]:
    """Return a runner with KV for that many tokens, and who hands them out."""
    kv = KVPool(
        model.num_layers,
        num_slots,
        model.num_kv_heads,
        model.head_dim,
        dtype=model.dtype,
        device=model.device,
    )
    return Runner(model, kv), SlotPool(num_slots)


def prompt_segment(
    token_ids: Sequence[int], slots: Sequence[int], *, first_output: int | None = None
) -> Segment:
    """Return a whole text as rows of one pass.

    Args:
        token_ids: the text, from position 0.
        slots: where its KV goes.
        first_output: row from which on logits are wanted; by default the last.
    """
    count = len(token_ids)
    return Segment(
        token_ids=token_ids,
        positions=range(count),
        write_slots=slots,
        context_slots=np.zeros(0, dtype=np.int64),
        tree_slots=slots,
        tree_mask=np.tri(count, dtype=np.bool_),
        output_rows=range(count - 1 if first_output is None else first_output, count),
    )
