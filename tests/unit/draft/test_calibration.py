"""Scores against what came true: counts, pools of claims, model against lookup."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treedraft.draft.calibration import LogOddsPool, MatchCalibrator, OpinionMixer

KIND = ("own", 4, 3)
PROBABILITIES = st.floats(0.0, 1.0)


def test_without_observations_a_match_is_worth_its_claim():
    assert MatchCalibrator().probability(KIND, 0.37) == 0.37
    assert MatchCalibrator(MatchCalibrator()).probability(KIND, 0.37) == 0.37


def test_counts_go_to_the_frequency_and_other_kinds_are_left_alone():
    rng = random.Random(1)
    calibrator = MatchCalibrator()
    for _ in range(2000):
        calibrator.observe(KIND, is_true=rng.random() < 0.3)
    assert calibrator.probability(KIND, 0.9) == pytest.approx(0.3, abs=0.05)
    assert calibrator.probability(("recent", 4, 3), 0.9) == 0.9


def test_a_session_begins_with_what_its_tenant_has_seen_and_departs_from_it():
    tenant = MatchCalibrator()
    before = MatchCalibrator(tenant)
    for _ in range(200):
        before.observe(KIND, is_true=False)
    session = MatchCalibrator(tenant)
    assert session.probability(KIND, 0.9) < 0.1
    for _ in range(20):
        session.observe(KIND, is_true=True)
    assert session.probability(KIND, 0.9) > 0.8
    assert tenant.probability(KIND, 0.9) < 0.3


@given(st.lists(st.tuples(PROBABILITIES, PROBABILITIES, st.booleans()), max_size=50))
def test_a_pool_gives_probabilities_and_a_higher_claim_never_less(observations):
    pool = LogOddsPool(0.3, (0.7, 0.7))
    for first, second, is_true in observations:
        pool.observe((first, second), is_true=is_true)
    values = [pool.probability((claim, 0.5)) for claim in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert values == sorted(values)
    assert all(0.0 < value < 1.0 for value in values)


@pytest.mark.parametrize("slope", [0.4, 1.0, 1.6])
def test_a_pool_of_one_learns_who_is_too_sure_or_not_sure_enough(slope):
    """What comes true with log-odds slope · claimed is what the pool says in the end."""
    rng = random.Random(2)
    pool = LogOddsPool(0.0, (1.0,))

    def truth(claim):
        return 1.0 / (1.0 + math.exp(-slope * math.log(claim / (1.0 - claim))))

    for _ in range(6000):
        claim = rng.uniform(0.02, 0.98)
        pool.observe((claim,), is_true=rng.random() < truth(claim))
    for claim in (0.1, 0.3, 0.7, 0.9):
        assert pool.probability((claim,)) == pytest.approx(truth(claim), abs=0.1)


@given(st.dictionaries(st.integers(0, 9), PROBABILITIES, min_size=1), st.booleans())
def test_tokens_weighed_together_weigh_what_each_does_by_itself(model, is_looked_up):
    mixer = OpinionMixer()
    for token_id in model:
        mixer.learn(token_id, model, {3: 0.6})
    lookup = {3: 0.4, 11: 0.2} if is_looked_up else {}
    for said in (model, None) if is_looked_up else (model,):
        named = list(lookup) if said is None else [*model, *lookup]
        each = [mixer.probability(token_id, said, lookup) for token_id in named]
        assert mixer.probabilities(named, said, lookup) == each


def test_without_observations_the_model_is_believed_and_agreement_raises_a_score():
    mixer = OpinionMixer()
    assert mixer.probability(5, {5: 0.4}, {}) == pytest.approx(0.4)
    assert mixer.probability(5, None, {5: 0.4}) == 0.4
    assert mixer.probability(5, {5: 0.5}, {5: 0.5}) > 0.5
    assert mixer.probability(5, {6: 0.5}, {5: 0.5}) < 0.4


def log_loss(mixer, rounds):
    """Mean log-loss of mixed scores over rounds of (truth, model, lookup), learned on the way."""
    losses = []
    for token_id, model, lookup in rounds:
        for named in model.keys() | lookup.keys():
            probability = mixer.probability(named, model, lookup)
            losses.append(-math.log(probability if named == token_id else 1.0 - probability))
        mixer.learn(token_id, model, lookup)
    return sum(losses[len(losses) // 2 :]) / (len(losses) - len(losses) // 2)


def test_scores_learned_from_commits_beat_the_claims_of_either():
    """A model that is too sure, and a lookup that is worth nothing where the model objects."""
    rng = random.Random(3)
    rounds = []
    for _ in range(3000):
        chance = rng.uniform(0.2, 0.8)
        token_id = 1 if rng.random() < chance else 99
        model = {1: min(0.98, chance + 0.25), 2: 0.1}
        lookup = rng.choice([{}, {3: 0.7}, {1: 0.6 if token_id == 1 else 0.5}])
        rounds.append((token_id, model, lookup))

    class Claims(OpinionMixer):
        """Believes the model, and lookup elsewhere; never learns."""

        def probability(self, token_id, model, lookup):
            return model.get(token_id) or lookup[token_id]

        def learn(self, token_id, model, lookup):
            pass

    assert log_loss(OpinionMixer(), rounds) < 0.75 * log_loss(Claims(), rounds)
