"""Tokens drawn by kernels are those that are drawn on a CPU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.draw import NoiseRows, noised_rows
from treedraft.inference.fused.draw import queue_draw
from treedraft.inference.law import LawRow

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

laws = st.builds(
    LawRow,
    sampling=st.builds(
        SamplingParameters,
        temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
        seed=st.integers(0, 2**64 - 1),
        top_k=st.sampled_from([0, 0, 5]),
        top_p=st.sampled_from([1.0, 1.0, 0.8]),
    ),
    position=st.integers(0, 2**31),
    choice=st.integers(0, 2**32 - 1),
)


def on_cpu(logits, rows):
    return [c.token_at(int(c.scores.argmax())) for c in noised_rows(logits, rows, NoiseRows())]


@settings(deadline=None, max_examples=15)
@given(
    rows=st.lists(laws, min_size=1, max_size=4), vocab=st.integers(1, 5000), seed=st.integers(0, 99)
)
def test_drawn_tokens_are_those_of_the_cpu(rows, vocab, seed):
    logits = torch.randn((len(rows), vocab), generator=torch.Generator().manual_seed(seed)) * 3
    drawn = queue_draw(logits.to(DEVICE), rows).tolist()
    assert drawn == on_cpu(logits, rows)


def test_the_lowest_id_wins_among_equals():
    logits = torch.zeros((1, 4097))
    logits[0, [7, 8, 3000]] = 2.5
    row = LawRow(SamplingParameters(temperature=0.0), position=3)
    assert queue_draw(logits.to(DEVICE), [row]).tolist() == [7]


def test_what_is_ruled_out_is_not_drawn():
    allowed = np.zeros(50, dtype=np.bool_)
    allowed[[4, 49]] = True
    row = LawRow(SamplingParameters(temperature=1.0, seed=5), position=3, allowed=allowed)
    logits = torch.randn((1, 50), generator=torch.Generator().manual_seed(0))
    assert queue_draw(logits.to(DEVICE), [row]).tolist()[0] in (4, 49)


@pytest.mark.parametrize("vocab", [1, 2, 2047, 2048, 2049, 49_152])
def test_every_token_can_be_drawn(vocab):
    logits = torch.zeros((3, vocab))
    places = [0, vocab // 2, vocab - 1]
    logits[[0, 1, 2], places] = 9.0
    rows = [LawRow(SamplingParameters(temperature=0.0), position=0)] * 3
    assert queue_draw(logits.to(DEVICE), rows).tolist() == places
