"""Children chosen by the kernel are those that a CPU chooses, scored by the whole law."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.draw import gumbel_row
from treedraft.inference.fused.children import can_choose, choose_children
from treedraft.inference.law import LawRow

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def by_definition(logits, row, count, column_ids, score_temperature):
    scores = logits.double().numpy()
    if not row.sampling.is_greedy:
        noise = gumbel_row(
            int(column_ids.max()) + 1,
            seed=row.sampling.seed,
            position=row.position,
            choice=row.choice,
        )
        scores = scores / row.sampling.temperature + noise[column_ids]
    law = torch.log_softmax(torch.from_numpy(scores) / score_temperature, dim=-1)
    best = law.argsort(descending=True, stable=True)[:count]
    return [(int(column_ids[i]), float(law[i])) for i in best]


laws = st.builds(
    LawRow,
    sampling=st.builds(
        SamplingParameters,
        temperature=st.sampled_from([0.0, 0.7, 1.0]),
        seed=st.integers(0, 2**64 - 1),
    ),
    position=st.integers(0, 2**31),
    choice=st.integers(0, 2**32 - 1),
)


@settings(deadline=None, max_examples=15)
@given(
    rows=st.lists(laws, min_size=1, max_size=4),
    num_columns=st.integers(1, 3000),
    count=st.integers(1, 5),
    score_temperature=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 99),
)
def test_children_are_the_best_of_noised_logits(rows, num_columns, count, score_temperature, seed):
    logits = torch.randn((len(rows), num_columns), generator=torch.Generator().manual_seed(seed))
    random = np.random.default_rng(seed)
    column_ids = np.sort(random.choice(3 * num_columns, num_columns, replace=False))
    found = choose_children(
        (logits * 3).to(DEVICE),
        rows,
        count,
        score_temperature=score_temperature,
        column_ids=column_ids,
    )
    for own, row, children in zip(logits * 3, rows, found, strict=True):
        expected = by_definition(own, row, count, column_ids, score_temperature)
        assert [token for token, _ in children] == [token for token, _ in expected]
        assert [gain for _, gain in children] == pytest.approx([g for _, g in expected], abs=1e-4)


def test_without_columns_of_their_own_they_are_the_tokens():
    logits = torch.tensor([[0.0, 2.0, 1.0]]).to(DEVICE)
    row = LawRow(SamplingParameters(temperature=0.0), position=1)
    found = choose_children(logits, [row], 2, score_temperature=1.0, column_ids=None)
    assert [token for token, _ in found[0]] == [1, 2]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParameters(temperature=0.7, seed=1, top_p=0.9),
        SamplingParameters(temperature=0.0, repetition_penalty=1.2),
        SamplingParameters(temperature=0.0, logit_bias=((3, 1.0),)),
    ],
)
def test_what_the_kernel_does_not_know_is_left_to_others(sampling):
    assert not can_choose([LawRow(sampling, position=1)])
