"""The shortcut must not show: τ by search is τ of the drafter's own loop, which knows nothing of
the text.
"""

import pytest
from evaluation_toys import SETTINGS, at

from treedraft.core.growth import TokenSource
from treedraft.core.token_tree import TokenTree
from treedraft.draft.assembly import assemble
from treedraft.draft.calibration import OpinionMixer
from treedraft.draft.settings import DraftSettings, GrowthSettings, LookupSettings
from treedraft.training.evaluation.probe import DraftProbe
from treedraft.training.evaluation.rehearsal import Rehearsal, best_nodes, follow
from treedraft.training.evaluation.tree_length import (
    TreeShape,
    summarise,
    tree_lengths,
)


@pytest.mark.parametrize("temperature", SETTINGS.temperatures)
@pytest.mark.parametrize("shape", [TreeShape(6, 16, 3), TreeShape(12, 3, 4), TreeShape.chain(4)])
def test_search_and_the_drafters_own_loop_agree(
    target, drafter, texts, temperature, shape, monkeypatch
):
    # The search takes the drafter at its word, so what it learns is left out here.
    monkeypatch.setattr(OpinionMixer, "learn", lambda *_: None)
    own = at(texts, temperature)
    probe = DraftProbe(drafter, own, num_children=shape.num_children, vocab_size=target.vocab_size)
    drafted = probe.read(own)
    rounds = tree_lengths(probe, drafted, [shape], min_score=-50.0, max_rows=5)[shape]
    settings = DraftSettings(
        kv_tokens=4096,
        lookup=LookupSettings(enabled=False),
        growth=GrowthSettings(
            num_children=shape.num_children,
            max_depth=shape.depth,
            min_score=-50.0,
            max_live_nodes=512,
            max_rows_per_step=64,
        ),
    )
    grower = assemble(drafter, settings).grower
    with Rehearsal(settings, grower, vocab_size=target.vocab_size) as rehearsal:
        rehearsed = rehearsal.run(own, budget=shape.budget, max_depth=shape.depth, max_steps=40)
    assert [one.num_rounds for one in rehearsed] == rounds
    length = summarise(drafted, shape, rounds)
    assert length.num_tokens == sum(one.num_tokens for one in rehearsed)
    assert length.tau > 1.2, "a test on nothing"


def test_larger_trees_are_never_shorter_and_a_chain_is_never_longer(target, drafter, texts):
    own = at(texts, 0.8)
    probe = DraftProbe(drafter, own, num_children=4, vocab_size=target.vocab_size)
    drafted = probe.read(own)
    shapes = [TreeShape(budget, 16, 4) for budget in (1, 4, 16)] + [TreeShape.chain(4)]
    rounds = tree_lengths(probe, drafted, shapes, min_score=-50.0, max_rows=64)
    taus = [summarise(drafted, shape, rounds[shape]).tau for shape in shapes]
    assert taus[0] < taus[1] < taus[2]
    assert taus[3] <= taus[2]


def test_a_perfect_drafter_emits_depth_plus_one(target, texts):
    own = at(texts, 0.0)
    probe = DraftProbe(target, own, num_children=1, vocab_size=target.vocab_size)
    drafted = probe.read(own)
    shape = TreeShape.chain(3)
    rounds = tree_lengths(probe, drafted, [shape], min_score=-50.0, max_rows=64)[shape]
    wanted = [-(-(text.num_response_tokens - 1) // 4) for text in own]
    assert rounds == wanted


def test_lookup_alone_is_rehearsed_without_a_model(target, texts):
    with Rehearsal(DraftSettings(), None, vocab_size=target.vocab_size) as rehearsal:
        results = rehearsal.run(texts, budget=8, max_depth=8, max_steps=5)
    for text, result in zip(texts, results, strict=True):
        assert result.num_tokens == text.num_response_tokens - 1
        assert 1 <= result.num_rounds <= result.num_tokens


def test_best_nodes_are_closed_and_followed_only_where_admitted():
    tree = TokenTree(3)
    first = tree.add(-1, 7, -0.1, TokenSource.DRAFT_MODEL)
    second = tree.add(first, 8, -0.2, TokenSource.DRAFT_MODEL)
    other = tree.add(-1, 9, -0.15, TokenSource.DRAFT_MODEL)
    assert best_nodes(tree, 2, 8) == {first, other}
    assert best_nodes(tree, 3, 1) == {first, other}
    assert follow(tree, [7, 8, 1], {first, other}) == 1
    assert follow(tree, [7, 8, 1], {first, second}) == 2
    assert follow(tree, [7, 8], {first, second}) == 2
