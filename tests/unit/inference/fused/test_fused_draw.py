"""Tokens drawn by kernels are those that are drawn on a CPU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.draw import NoiseRows, noised_rows
from treedraft.inference.fused.draw import DeviceDraws, queue_draw
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


plain_laws = st.builds(
    LawRow,
    sampling=st.builds(
        SamplingParameters,
        temperature=st.sampled_from([0.0, 0.3, 1.7]),
        seed=st.integers(0, 2**64 - 1),
    ),
    position=st.integers(0, 2**31),
    choice=st.integers(0, 2**32 - 1),
)


@settings(deadline=None, max_examples=15)
@given(
    steps=st.lists(st.lists(plain_laws, min_size=1, max_size=7), min_size=1, max_size=4),
    vocab=st.integers(1, 5000),
)
def test_draws_that_keep_their_memory_are_those_of_the_cpu(steps, vocab):
    draws, random = DeviceDraws(), torch.Generator().manual_seed(vocab)
    space = torch.zeros((8, vocab), device=DEVICE)  # as a pass's logits, step after step
    for rows in steps:
        logits = torch.randn((len(rows), vocab), generator=random) * 3
        space[: len(rows)] = logits.to(DEVICE)
        assert draws.can_replay(space[: len(rows)], rows)
        assert draws.draw(space[: len(rows)], rows) == on_cpu(logits, rows)


def test_draws_over_more_rows_and_another_vocabulary_get_memory_that_fits():
    draws = DeviceDraws()
    for num_rows, vocab in ((1, 50), (70, 50), (2, 90), (1, 90)):
        logits = torch.randn((num_rows, vocab), generator=torch.Generator().manual_seed(num_rows))
        rows = [LawRow(SamplingParameters(temperature=0.0), position=3)] * num_rows
        assert draws.draw(logits.to(DEVICE), rows) == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize(
    "row",
    [
        LawRow(SamplingParameters(temperature=1.0, seed=1, top_k=3), 5),
        LawRow(SamplingParameters(temperature=0.0, logit_bias=((3, 1.0),)), 5),
        LawRow(SamplingParameters(temperature=0.0), 5, allowed=np.ones(50, dtype=np.bool_)),
    ],
)
def test_laws_that_change_logits_are_drawn_as_well(row):
    draws, plain = DeviceDraws(), LawRow(SamplingParameters(temperature=0.0), position=3)
    logits = torch.randn((2, 50), generator=torch.Generator().manual_seed(0))
    assert not draws.can_replay(logits.to(DEVICE), [plain, row])
    assert draws.draw(logits.to(DEVICE), [plain, row]) == on_cpu(logits, [plain, row])


def test_something_is_done_once_while_the_device_draws():
    logits, row = torch.zeros((1, 50)), LawRow(SamplingParameters(temperature=0.0), position=3)
    cut = LawRow(SamplingParameters(temperature=1.0, seed=1, top_k=3), 5)
    calls = []
    for law in (row, cut):
        DeviceDraws().draw(logits.to(DEVICE), [law], lambda: calls.append(1))
    assert calls == [1, 1]


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
