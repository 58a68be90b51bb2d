import math

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from treedraft.core.noise import gumbel
from treedraft.core.sampling import SamplingParameters
from treedraft.inference.draw import draw_on_device, gumbel_on_device, gumbel_row
from treedraft.inference.law import truncate_on_device
from treedraft.inference.sampler import (
    LawRow,
    NoiseRows,
    SessionCounts,
    TokenHistory,
    coupled_draw,
    processed_logits,
    target_probs,
    tie_margin,
)

VOCAB = 1000
LAWS = {
    "plain": {},
    "cool": {"temperature": 0.6},
    "hot": {"temperature": 1.7},
    "top_k": {"top_k": 7},
    "top_p": {"top_p": 0.95, "temperature": 0.6},
    "top_p narrow": {"top_p": 0.01},
    "min_p": {"min_p": 0.05},
    "all cuts": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
    "top_k of all": {"top_k": 5000, "top_p": 0.99},
}


def random_logits(num_rows, vocab=VOCAB, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab, generator=generator) * spread


def history_of(prompt, output, path=(), vocab=VOCAB):
    counts = SessionCounts(vocab)
    counts.add_prompt(prompt)
    counts.add_output(output)
    return TokenHistory(counts, path)


def transformers_processors(sampling):
    """The processors of `generate`, in the order in which it applies them."""
    chain = LogitsProcessorList()
    if sampling.logit_bias:
        chain.append(SequenceBiasLogitsProcessor([[[t], b] for t, b in sampling.logit_bias]))
    if sampling.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature not in (0.0, 1.0):
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chain.append(MinPLogitsWarper(sampling.min_p))
    return chain


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
@pytest.mark.parametrize("with_history", [False, True])
def test_law_is_that_of_transformers(law, with_history):
    if with_history:
        law = law | {"logit_bias": ((3, 5.0), (11, -4.0)), "repetition_penalty": 1.3}
    sampling = SamplingParameters(seed=1, **law)
    logits = random_logits(12)
    prompt, output, path = [1, 2, 3, 3], [5, 6, 5], (7, 3)
    row = LawRow(sampling, 9, history=history_of(prompt, output, path))
    expected = transformers_processors(sampling)(
        torch.tensor([[*prompt, *output, *path]] * 12), logits.clone()
    )
    assert torch.equal(processed_logits(logits, [row] * 12), expected)


def test_processing_leaves_the_logits_alone():
    logits = random_logits(3)
    before = logits.clone()
    sampling = SamplingParameters(seed=1, logit_bias=((0, 9.0),), top_k=3, presence_penalty=1.0)
    rows = [LawRow(sampling, 4, history=history_of([1], [2]))] * 3
    processed_logits(logits, rows)
    coupled_draw(logits, rows)
    target_probs(logits, rows)
    assert torch.equal(logits, before)


def test_presence_and_frequency_count_the_output_and_the_path_but_not_the_prompt():
    sampling = SamplingParameters(presence_penalty=0.5, frequency_penalty=0.25, seed=0)
    row = LawRow(sampling, 7, history=history_of([0, 0, 1], [1, 2, 2], (2, 3)))
    processed = processed_logits(torch.zeros(1, 5), [row])[0]
    assert processed.tolist() == [0.0, -0.75, -1.25, -0.75, 0.0]


def test_repetition_penalty_counts_prompt_output_and_path_once():
    sampling = SamplingParameters(repetition_penalty=2.0, seed=0)
    logits = torch.tensor([[4.0, -4.0, 4.0, -4.0, 4.0]])
    row = LawRow(sampling, 7, history=history_of([0, 0], [1], (2,)))
    assert processed_logits(logits, [row])[0].tolist() == [2.0, -8.0, 2.0, -4.0, 4.0]


def test_tokens_without_a_logit_are_ignored():
    # A drafter's vocabulary may be smaller than the ids that it is told of.
    sampling = SamplingParameters(repetition_penalty=2.0, logit_bias=((9, 1.0),), seed=0)
    history = history_of([1, 700], [800], (900, 2), vocab=5)
    processed = processed_logits(torch.ones(1, 4), [LawRow(sampling, 7, history=history)])
    assert processed[0].tolist() == [1.0, 0.5, 0.5, 1.0]


def test_penalties_without_a_history_are_a_mistake():
    row = LawRow(SamplingParameters(presence_penalty=1.0, seed=0), 3)
    with pytest.raises(ValueError, match="history"):
        coupled_draw(torch.zeros(1, 4), [row])


@pytest.mark.parametrize(
    ("law", "kept"),
    [
        ({"top_k": 2}, [1, 3]),
        ({"top_p": 0.5}, [1, 3]),
        ({"top_p": 0.51}, [1, 3, 4]),
        ({"min_p": 1.0}, [1, 3, 4, 6]),
        ({"top_k": 3, "top_p": 0.6}, [1, 3]),
    ],
)
def test_among_equals_at_a_cut_the_lowest_ids_stay(law, kept):
    logits = torch.tensor([[-90.0, 2.0, -90.0, 2.0, 2.0, -90.0, 2.0]])
    row = LawRow(SamplingParameters(seed=0, **law), 5)
    processed = processed_logits(logits, [row])
    assert torch.nonzero(processed[0] > -math.inf).flatten().tolist() == kept
    assert torch.equal(truncate_on_device(logits, [row]), processed)


@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 30.0])
def test_both_ways_of_cutting_agree(spread):
    laws = [SamplingParameters(seed=0, **law) for law in LAWS.values()]
    laws.append(SamplingParameters(temperature=0.0, top_k=3))
    rows = [LawRow(law, 3) for law in laws for _ in range(4)]
    logits = random_logits(len(rows), seed=5, spread=spread)
    divisors = torch.tensor([row.sampling.temperature or 1.0 for row in rows])
    expected = truncate_on_device(logits / divisors[:, None], rows)
    assert torch.equal(processed_logits(logits, rows), expected)


@pytest.mark.parametrize("vocab", [1, 2, 5, 2049, 40_001])
def test_a_noise_row_is_the_noise_of_its_tokens(vocab):
    expected = gumbel(np.arange(vocab), np.array([17]), seed=2**40 + 3, choice=2)
    assert np.array_equal(gumbel_row(vocab, seed=2**40 + 3, position=17, choice=2), expected)
    on_device = gumbel_on_device(
        vocab, [3, 17], seed=2**40 + 3, choice=2, device=torch.device("cpu")
    )
    assert np.abs(on_device[1].numpy() - expected).max() < 1e-12


def draw_by_definition(logits, row):
    """argmax(processed + g), in the plainest words."""
    processed = processed_logits(logits[None], [row])[0].double().numpy()
    if not row.sampling.is_greedy:
        noise = gumbel(
            np.arange(len(processed)),
            np.array([row.position]),
            seed=row.sampling.seed,
            choice=row.choice,
        )
        processed = processed + noise
    return int(processed.argmax())


@pytest.mark.parametrize("vocab", [6, VOCAB, 5000])
def test_a_draw_is_the_argmax_of_noised_logits(vocab):
    logits = random_logits(40, vocab=vocab)
    laws = [SamplingParameters(seed=7 + i, **law) for i, law in enumerate(LAWS.values())]
    laws.append(SamplingParameters(temperature=0.0, seed=3))
    rows = [LawRow(laws[i % len(laws)], i // 3, choice=i % 2) for i in range(40)]
    drawn = coupled_draw(logits, rows)
    assert drawn == [draw_by_definition(logits[i], row) for i, row in enumerate(rows)]
    assert drawn == draw_on_device(logits, rows).tolist()


def test_a_row_depends_on_nothing_else_in_the_batch():
    logits = random_logits(60, vocab=5000)
    laws = [SamplingParameters(seed=5, **law) for law in LAWS.values()]
    rows = [LawRow(laws[i % len(laws)], 100 + i % 7) for i in range(60)]
    together = coupled_draw(logits, rows)
    kept = NoiseRows(max_rows=3)
    alone = [coupled_draw(logits[i : i + 1], rows[i : i + 1], kept)[0] for i in range(60)]
    backwards = coupled_draw(logits.flip(0), rows[::-1], kept)[::-1]
    assert together == alone == backwards
    probs = target_probs(logits, rows)
    for index in range(60):
        assert np.array_equal(target_probs(logits[[index]], [rows[index]])[0], probs[index])


def test_greedy_takes_the_lowest_of_equal_tokens_and_needs_no_seed():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0]])
    row = LawRow(SamplingParameters(temperature=0.0, top_k=1, top_p=0.1), 2)
    assert coupled_draw(logits, [row]) == [1]
    assert target_probs(logits, [row]).tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_a_sampled_row_needs_a_seed():
    with pytest.raises(ValueError, match="seed"):
        coupled_draw(torch.zeros(1, 4), [LawRow(SamplingParameters(), 2)])


def test_no_rows_draw_nothing():
    assert coupled_draw(torch.zeros(0, 4), []) == []


def test_a_tiny_temperature_is_greedy_in_effect():
    logits = random_logits(5)
    row = LawRow(SamplingParameters(temperature=1e-300, seed=1), 2)
    assert coupled_draw(logits, [row] * 5) == logits.argmax(dim=-1).tolist()


def test_probabilities_are_those_of_the_law():
    logits = random_logits(4)
    row = LawRow(SamplingParameters(temperature=0.7, top_k=9, seed=1), 2)
    probs = target_probs(logits, [row] * 4)
    expected = torch.softmax(processed_logits(logits, [row] * 4).double(), dim=-1)
    assert np.array_equal(probs, expected.numpy())
    assert ((probs > 0).sum(axis=1) == 9).all()


def test_margin_of_a_greedy_draw_is_the_gap_of_the_best_two():
    logits = torch.tensor([1.0, 4.0, 3.75, 0.0])
    assert tie_margin(logits, LawRow(SamplingParameters(temperature=0.0), 2)) == 0.25


def test_margin_sees_a_winner_about_to_be_cut():
    # Token 1 wins by its noise and is the last to survive.
    for position in range(200):
        row = LawRow(SamplingParameters(top_k=2, seed=3), position)
        logits = torch.tensor([3.0, 2.0, 2.0 - 2**-12, -9.0])
        if coupled_draw(logits[None], [row]) == [1]:
            assert tie_margin(logits, row) <= 2**-12
            return
    pytest.fail("token 1 never won")


def test_margin_ignores_cut_tokens_that_would_not_win():
    # Tokens 1 and 2 are equal at the cut, and neither has any hope.
    logits = torch.tensor([30.0, 0.0, 0.0])
    for law in ({"top_k": 2}, {"top_p": 0.99}):
        assert tie_margin(logits, LawRow(SamplingParameters(seed=3, **law), 4)) > 1.0


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_moves_below_the_margin_do_not_turn_a_draw(law):
    generator = np.random.default_rng(4)
    turned = 0
    for position in range(60):
        row = LawRow(SamplingParameters(seed=6, **law), position)
        logits = random_logits(1, vocab=40, seed=position, spread=2.0)[0]
        before = coupled_draw(logits[None], [row])[0]
        margin = tie_margin(logits, row) * row.sampling.temperature
        reach = min(margin, 8.0)
        # Each logit by less than half of it, so two of them move apart by less.
        for _ in range(4):
            noise = torch.from_numpy(generator.uniform(-0.49, 0.49, 40)).float() * reach
            assert coupled_draw((logits + noise)[None], [row])[0] == before
        pushed = logits.clone()
        pushed[before] -= 2.0 * margin if math.isfinite(margin) else 0.0
        turned += coupled_draw(pushed[None], [row])[0] != before
    assert turned > 0 or law == {"top_p": 0.01}
