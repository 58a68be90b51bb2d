import math

import numpy as np
import pytest
import torch

from treedraft.core.growth import Growth, SiblingLaw, TokenSource
from treedraft.core.noise import Domain, gumbel
from treedraft.core.sampling import SamplingParameters
from treedraft.inference import draft_sampler
from treedraft.inference.draft_sampler import (
    NOISED_CANDIDATES,
    NOISED_DEPTH,
    draft_children,
    draft_siblings,
)
from treedraft.inference.draw import noise_of_tokens
from treedraft.inference.sampler import (
    LawRow,
    SessionCounts,
    TokenHistory,
    branch_of,
    coupled_draw,
    processed_logits,
)

LAWS = [
    {},
    {"temperature": 0.6, "top_p": 0.9},
    {"top_k": 3},
    {"min_p": 0.2},
    {"temperature": 0.0},
]


def random_logits(num_rows, vocab=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab, generator=generator) * 3.0


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("vocab", [300, 5000])
def test_the_first_child_is_what_the_target_draws_from_equal_logits(law, vocab):
    logits = random_logits(20, vocab=vocab)
    rows = [LawRow(SamplingParameters(seed=9, **law), i, choice=1) for i in range(20)]
    children = draft_children(logits, rows, 4)
    assert [best[0][0] for best in children] == coupled_draw(logits, rows)


def test_children_are_the_top_of_noised_logits_with_their_log_softmax():
    logits = random_logits(1)
    row = LawRow(SamplingParameters(temperature=0.7, seed=2), 31)
    noised = processed_logits(logits, [row])[0].double().numpy()
    noised = noised + gumbel(np.arange(300), np.array([31]), seed=2)
    order = np.argsort(-noised)[:5]
    for softness in (1.0, 1.5):
        scores = torch.log_softmax(torch.from_numpy(noised) / softness, dim=-1).numpy()
        children = draft_children(logits, [row], 5, score_temperature=softness)[0]
        assert [token for token, _ in children] == order.tolist()
        assert [score for _, score in children] == pytest.approx(scores[order], abs=1e-5)


def test_greedy_children_are_the_most_likely_tokens_without_noise():
    logits = random_logits(1)
    row = LawRow(SamplingParameters(temperature=0.0), 31)
    children = draft_children(logits, [row], 6)[0]
    expected = torch.log_softmax(logits[0], dim=-1).topk(6)
    assert [token for token, _ in children] == expected.indices.tolist()
    assert [score for _, score in children] == pytest.approx(expected.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("law", LAWS)
def test_children_are_distinct_best_first_and_within_the_law(law):
    logits = random_logits(30)
    rows = [LawRow(SamplingParameters(seed=4, **law), i) for i in range(30)]
    allowed = processed_logits(logits, rows) > -math.inf
    for index, children in enumerate(draft_children(logits, rows, 8)):
        tokens = [token for token, _ in children]
        scores = [score for _, score in children]
        assert len(tokens) == len(set(tokens)) == min(8, int(allowed[index].sum()))
        assert allowed[index, tokens].all()
        assert scores == sorted(scores, reverse=True)
        assert all(score <= 0.0 for score in scores)
        assert sum(math.exp(score) for score in scores) <= 1.0 + 1e-6


def test_equal_scores_give_the_lowest_ids_first():
    row = LawRow(SamplingParameters(temperature=0.0), 1)
    children = draft_children(torch.zeros(1, 9), [row], 3)[0]
    assert [token for token, _ in children] == [0, 1, 2]


def cut_to(logits, column_ids):
    """Return logits over all tokens, of which only those with a column can be drawn."""
    cut = torch.full_like(logits, -math.inf)
    cut[:, column_ids] = logits[:, column_ids]
    return cut


PENALTIES = {
    "repetition_penalty": 1.3,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.4,
    # One token with a column, one without, one beyond the last column.
    "logit_bias": ((8, 4.0), (9, 30.0), (299, 30.0)),
}


@pytest.mark.parametrize("law", [*LAWS, PENALTIES, PENALTIES | {"top_k": 5}])
def test_a_head_over_some_tokens_drafts_as_one_over_all_that_can_draw_no_others(law):
    column_ids = np.arange(2, 290, 3)  # 8 has a column, 9 has not
    logits = random_logits(20)
    counts = SessionCounts(300)
    counts.add_prompt([2, 3, 299])
    counts.add_output([5, 5, 6, 11])
    rows = [
        LawRow(SamplingParameters(seed=9, **law), i, 1, TokenHistory(counts, (14, 15, 14)))
        for i in range(20)
    ]
    reduced = draft_children(logits[:, column_ids], rows, 4, column_ids=column_ids)
    whole = draft_children(cut_to(logits, column_ids), rows, 4)
    assert [[token for token, _ in children] for children in reduced] == [
        [token for token, _ in children] for children in whole
    ]
    for children, expected in zip(reduced, whole, strict=True):
        assert dict(children) == pytest.approx(dict(expected), abs=1e-4)
    drawn = coupled_draw(cut_to(logits, column_ids), rows)
    assert [children[0][0] for children in reduced] == drawn


@pytest.mark.parametrize("law", LAWS)
def test_siblings_of_a_head_over_some_tokens_are_tokens(law):
    column_ids = np.arange(1, 300, 4)
    logits = random_logits(12)
    rows = [LawRow(SamplingParameters(seed=4, **law), i) for i in range(12)]
    reduced = draft_siblings(logits[:, column_ids], rows, 3, column_ids=column_ids)
    probs = torch.softmax(processed_logits(cut_to(logits, column_ids), rows).double(), dim=-1)
    for index, (tokens, sparse) in enumerate(reduced):
        assert set(tokens) <= set(sparse.token_ids) <= set(column_ids.tolist())
        if law.get("temperature") != 0.0:
            kept = probs[index, list(sparse.token_ids)]
            assert sparse.probabilities == pytest.approx((kept / kept.sum()).tolist(), rel=1e-5)


def test_a_large_head_gets_noise_where_the_law_is_and_nowhere_else(monkeypatch):
    num_noised = []

    def counting(rows, token_ids, **options):
        num_noised.extend(map(len, token_ids))
        return noise_of_tokens(rows, token_ids, **options)

    monkeypatch.setattr(draft_sampler, "noise_of_tokens", counting)
    vocab = 20_000
    peaked = torch.zeros(vocab)
    peaked[[7, 19_000]] = torch.tensor([NOISED_DEPTH + 0.1, NOISED_DEPTH + 1.0])
    logits = torch.stack([2.0 * random_logits(1, vocab=vocab)[0], torch.zeros(vocab), peaked])
    rows = [LawRow(SamplingParameters(seed=1), i) for i in range(3)]
    drafted = draft_children(logits, rows, 4)
    assert num_noised[0] < NOISED_CANDIDATES
    assert num_noised[1:] == [NOISED_CANDIDATES, 2]
    assert {token for token, _ in drafted[2]} == {7, 19_000}
    # And even so it foresees what the target draws, but for the tail of the law.
    many = 2.0 * random_logits(200, vocab=vocab, seed=3)
    rows = [LawRow(SamplingParameters(seed=2), i) for i in range(200)]
    foreseen = [children[0][0] for children in draft_children(many, rows, 1)]
    drawn = coupled_draw(many, rows)
    assert np.mean([a == b for a, b in zip(foreseen, drawn, strict=True)]) > 0.95


@pytest.mark.parametrize("law", LAWS)
def test_siblings_come_from_the_law_that_travels_with_them(law):
    logits = random_logits(30)
    rows = [
        LawRow(SamplingParameters(seed=4, **law), i, branch=branch_of((i, 3))) for i in range(30)
    ]
    probs = torch.softmax(processed_logits(logits, rows).double(), dim=-1)
    for index, (tokens, sparse) in enumerate(draft_siblings(logits, rows, 4, support_size=16)):
        assert len(tokens) == len(set(tokens)) == min(4, len(sparse.token_ids))
        assert set(tokens) <= set(sparse.token_ids)
        assert list(sparse.probabilities) == sorted(sparse.probabilities, reverse=True)
        # What travels is float32, and the draw was made from exactly that.
        assert np.float32(sparse.probabilities).tolist() == list(sparse.probabilities)
        if law.get("temperature") != 0.0:
            kept = probs[index, list(sparse.token_ids)]
            expected = (kept / kept.sum()).tolist()
            assert sparse.probabilities == pytest.approx(expected, rel=1e-5)
        Growth(
            session_number=1,
            base_length=5,
            first_node_id=0,
            parent_offsets=(0,) * len(tokens),
            token_ids=tuple(tokens),
            scores=(-1.0,) * len(tokens),
            sources=(TokenSource.DRAFT_MODEL,) * len(tokens),
            sibling_laws=(SiblingLaw(0, len(tokens), sparse.token_ids, sparse.probabilities),),
        ).check(vocab_size=300)


def test_a_greedy_law_has_one_child():
    row = LawRow(SamplingParameters(temperature=0.0, seed=1), 1)
    logits = random_logits(1)
    tokens, sparse = draft_siblings(logits, [row], 4)[0]
    assert tokens == [int(logits.argmax())]
    assert sparse.probabilities == (1.0,)


def test_tokens_too_rare_for_the_wire_are_left_out():
    logits = torch.tensor([[0.0, -200.0, -1.0]])
    row = LawRow(SamplingParameters(seed=1), 1)
    tokens, sparse = draft_siblings(logits, [row], 3)[0]
    assert sparse.token_ids == (0, 2)
    assert sorted(tokens) == [0, 2]


def test_siblings_of_two_branches_are_drawn_apart():
    logits = random_logits(1, vocab=50).expand(2, -1)
    sampling = SamplingParameters(seed=8)
    agreements = 0
    for position in range(200):
        rows = [LawRow(sampling, position, branch=branch_of((token,))) for token in (1, 2)]
        (first, _), (second, _) = draft_siblings(logits, rows, 1)
        again = draft_siblings(logits[:1], rows[:1], 1)[0][0]
        assert again == first
        agreements += first == second
    chance = float((torch.softmax(logits[0].double(), dim=-1) ** 2).sum())
    assert agreements / 200 < chance + 4 * math.sqrt(chance / 200)


def test_no_branch_shares_noise_with_another_position():
    token_ids = [np.arange(8)]
    sampling = SamplingParameters(seed=3)
    seen = {
        noise_of_tokens(
            [LawRow(sampling, position, branch=branch)], token_ids, domain=Domain.DRAFT_SAMPLING
        )[0].tobytes()
        for position in range(16)
        for branch in range(16)
    }
    assert len(seen) == 16 * 16


def test_drafting_noise_is_not_the_noise_of_the_target():
    logits = random_logits(1, vocab=50).expand(300, -1)
    rows = [LawRow(SamplingParameters(seed=8), position) for position in range(300)]
    drafted = [tokens[0] for tokens, _ in draft_siblings(logits, rows, 1)]
    drawn = coupled_draw(logits, rows)
    agreement = np.mean([a == b for a, b in zip(drafted, drawn, strict=True)])
    chance = float((torch.softmax(logits[0].double(), dim=-1) ** 2).sum())
    assert agreement < chance + 4 * math.sqrt(chance / 300)


def test_branches_have_numbers_of_32_bits():
    paths = [(), (0,), (0, 0), (1,), (1, 2), (2, 1), (49151, 7)]
    numbers = [branch_of(path) for path in paths]
    assert len(set(numbers)) == len(paths)
    assert all(0 <= number < 2**32 for number in numbers)
