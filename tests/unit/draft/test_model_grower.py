"""Growth by a real, small model, against what the target itself would draw.

A drafter with the target's own weights must foresee every token: its best child
at each node of the true path is the target's draw there. Whatever happened to
the tree before (hits, misses, KV dropped and computed again, prompts in chunks)
must not show, so this also checks slots, masks, positions and re-rooting.
"""

import math
import random

import pytest
import torch
from draft_support import GREEDY, REJECTION, SAMPLED, FakeTarget, make_drafter, make_spec

from treedraft.core.exchange import Commit, Economics, Rest, TargetFrame
from treedraft.core.growth import ROOT, TokenSource
from treedraft.core.sampling import SamplingParameters, SpeculationOptions
from treedraft.draft.assembly import assemble
from treedraft.draft.links import FrameArrived, LinkClosed
from treedraft.draft.model_children import DraftLimits
from treedraft.draft.model_grower import ModelGrower
from treedraft.draft.settings import DraftSettings, GrowthSettings, LookupSettings
from treedraft.inference.block_pool import SlotPool
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.native.growth import NativeLevelGrower
from treedraft.inference.runner import Runner
from treedraft.inference.sampler import (
    LawRow,
    SessionCounts,
    TokenHistory,
    coupled_draw,
    tie_margin,
)
from treedraft.inference.segment import Segment

PROMPT = [11, 42, 7, 99, 300, 5, 64, 8, 120, 33]
PENALISED = SamplingParameters(
    temperature=0.8,
    top_k=50,
    top_p=0.95,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=0.2,
    logit_bias=((17, 2.0),),
    seed=5,
)
NO_LOOKUP = LookupSettings(enabled=False)


def draft_settings(**growth):
    return DraftSettings(
        model="toy", kv_tokens=512, lookup=NO_LOOKUP, growth=GrowthSettings(**growth)
    )


def fresh_logits(model, token_ids):
    """Run the whole text through an empty pool: the definition of right."""
    kv = KVPool(
        model.num_layers,
        len(token_ids),
        model.num_kv_heads,
        model.head_dim,
        dtype=model.dtype,
        device=model.device,
    )
    slots = torch.arange(len(token_ids)).numpy()
    segment = Segment(
        token_ids=token_ids,
        positions=range(len(token_ids)),
        write_slots=slots,
        context_slots=slots[:0],
        tree_slots=slots,
        tree_mask=torch.ones(len(token_ids), len(token_ids)).tril().bool().numpy(),
        output_rows=[len(token_ids) - 1],
    )
    return Runner(model, kv).forward([segment])


def target_draw(model, spec, token_ids):
    """Return the target's next token after `token_ids`, and how near it was to a tie."""
    counts = SessionCounts(model.vocab_size)
    counts.add_prompt(token_ids[: spec.prompt_length])
    counts.add_output(token_ids[spec.prompt_length :])
    row = LawRow(spec.sampling, len(token_ids), spec.choice, TokenHistory(counts))
    logits = fresh_logits(model, token_ids)
    return coupled_draw(logits, [row])[0], tie_margin(logits[0], row)


@pytest.fixture
def make_target(tmp_path):
    def make(model, settings=None, **link_options):
        settings = settings or draft_settings()
        grower = assemble(model, settings).grower
        drafter = make_drafter(tmp_path, settings=settings, grower=grower)
        return FakeTarget(drafter, **link_options), grower

    return make


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "T1", "all"])
def test_a_drafter_with_the_targets_weights_foresees_every_draw(make_target, toy_model, sampling):
    settings = draft_settings(prefill_chunk=4, max_rows_per_session=3)
    target, grower = make_target(toy_model, settings)
    spec = make_spec(PROMPT, sampling=sampling, prompt_length=6)
    target.open(1, spec)
    rng = random.Random(3)
    num_compared = 0
    for _ in range(8):
        target.grow()
        text, place = list(target.texts[1]), ROOT
        while target.trees[1].children(place):
            drawn, margin = target_draw(toy_model, spec, text)
            assert margin > 1e-4
            best = max(target.trees[1].children(place).values(), key=target.trees[1].score)
            assert target.trees[1][best].token_id == drawn
            text.append(drawn)
            place = best
            num_compared += 1
        # Commit part of the path and then the draw; now and then a surprise,
        # as when the token came from elsewhere.
        held = text[len(target.texts[1]) :]
        accepted = held[: rng.randrange(1, len(held))]
        surprise = [rng.randrange(512)] if rng.random() < 0.4 else []
        target.commit(1, accepted + surprise)
    assert num_compared > 20
    target.send(closes=[1])
    assert grower.num_free_slots == grower.num_slots


def test_each_child_has_the_score_of_the_noised_law(make_target, noisy_model):
    """Scores are log-probabilities: children of a node never exceed it in sum."""
    target, _ = make_target(noisy_model)
    target.open(1, make_spec(PROMPT))
    target.grow()
    tree = target.trees[1]
    for place in (ROOT, *(node.node_id for node in tree)):
        children = tree.children(place).values()
        total = sum(torch.exp(torch.tensor(tree.score(c) - tree.score(place))) for c in children)
        assert total <= 1.0 + 1e-4
    assert len(tree) > 20
    assert {node.source for node in tree} == {TokenSource.DRAFT_MODEL}


def test_many_sessions_at_once_do_not_disturb_each_other(make_target, toy_model):
    target, grower = make_target(toy_model, draft_settings(max_rows_per_step=7))
    specs = {n: make_spec([n, *PROMPT[n % 4 :]], sampling=SAMPLED) for n in range(1, 7)}
    for number, spec in specs.items():
        target.open(number, spec)
    target.grow()
    for number, spec in specs.items():
        text = list(target.texts[number])
        for token_id in target.best_path(number)[:4]:
            drawn, _ = target_draw(toy_model, spec, text)
            assert token_id == drawn
            text.append(drawn)
    target.send(closes=list(specs))
    assert grower.num_free_slots == grower.num_slots


def test_a_full_pool_makes_room_by_forgetting_others_and_loses_nothing(make_target, toy_model):
    settings = DraftSettings(
        model="toy",
        kv_tokens=64,
        lookup=NO_LOOKUP,
        growth=GrowthSettings(max_live_nodes=24, max_rows_per_session=2, num_children=2),
    )
    target, grower = make_target(toy_model, settings)
    specs = {n: make_spec([n, *PROMPT], sampling=GREEDY) for n in range(1, 7)}
    for number, spec in specs.items():
        target.open(number, spec)
    for _ in range(3):
        target.grow()  # and they do not evict each other for ever
        for number, spec in specs.items():
            text = list(target.texts[number])
            drawn, _ = target_draw(toy_model, spec, text)
            path = target.best_path(number)
            assert path[:1] == [drawn]
            target.commit(number, path[:1])
    assert not target.refusals
    target.send(closes=list(specs))
    assert grower.num_free_slots == grower.num_slots == 64


def test_long_prompts_that_fit_only_one_at_a_time_all_get_their_turn(make_target, toy_model):
    settings = DraftSettings(
        model="toy", kv_tokens=64, lookup=NO_LOOKUP, growth=GrowthSettings(prefill_chunk=8)
    )
    target, grower = make_target(toy_model, settings)
    specs = {n: make_spec([n, *PROMPT * 5], sampling=GREEDY) for n in range(1, 5)}
    for number, spec in specs.items():
        target.open(number, spec)
    target.grow(max_steps=100)
    for number, spec in specs.items():
        drawn, _ = target_draw(toy_model, spec, target.texts[number])
        assert target.best_path(number)[:1] == [drawn]
    assert grower.num_free_slots < 64


def test_a_session_that_the_pool_cannot_hold_is_refused(make_target, toy_model):
    settings = DraftSettings(model="toy", kv_tokens=64, lookup=NO_LOOKUP)
    target, grower = make_target(toy_model, settings)
    target.open(1, make_spec([3] * 65))
    target.open(2, make_spec([3] * 60))
    target.grow()
    assert target.refusals == {1: "KV_POOL_FULL"}
    target.commit(2, [4] * 5)
    target.grow()
    assert target.refusals == {1: "KV_POOL_FULL", 2: "KV_POOL_FULL"}
    assert grower.num_free_slots == 64


def test_tokens_that_the_model_lacks_are_refused(make_target, toy_model):
    target, _ = make_target(toy_model)
    target.open(1, make_spec([toy_model.vocab_size + 5]))
    target.open(2, make_spec([1, 2]))
    target.grow()
    target.commit(2, [2**32 - 1])
    target.grow()
    assert target.refusals == {1: "TOKEN_OUT_OF_RANGE", 2: "TOKEN_OUT_OF_RANGE"}


def test_no_token_beyond_the_targets_vocabulary_is_drafted(make_target, toy_model):
    target, _ = make_target(toy_model, vocab_size=100)  # FakeTarget checks each growth
    target.open(1, make_spec(PROMPT[:4]))
    target.grow()
    assert len(target.trees[1]) > 10


def test_growth_ends_at_the_end_of_the_context(toy_model, tmp_path):
    settings = draft_settings()
    grower = ModelGrower(
        Runner(
            toy_model,
            KVPool(
                2,
                512,
                toy_model.num_kv_heads,
                toy_model.head_dim,
                dtype=toy_model.dtype,
                device=toy_model.device,
            ),
        ),
        SlotPool(512),
        DraftLimits(512, 512, len(PROMPT) + 2, frozenset()),
        settings.growth,
    )
    target = FakeTarget(make_drafter(tmp_path, settings=settings, grower=grower))
    target.open(1, make_spec(PROMPT))
    target.grow()
    assert len(target.best_path(1)) == 2
    target.commit(1, target.best_path(1))
    target.grow()
    assert target.best_path(1) == []


def test_rejection_groups_are_whole_and_independent_of_what_was_drawn(make_target, toy_model):
    target, _ = make_target(toy_model, draft_settings(num_children=3, max_live_nodes=30))
    target.open(1, make_spec(PROMPT, sampling=REJECTION))
    for _ in range(4):
        target.grow()
        tree = target.trees[1]
        for place in (ROOT, *(node.node_id for node in tree)):
            children = sorted(tree.children(place).values())
            if children:
                law = target.laws[1, children[0]]
                assert law.num_children == len(children) == 3
                assert sum(law.probabilities) == pytest.approx(1.0, abs=1e-5)
                # Scores tell the rank of a draw and nothing else.
                steps = [round(tree.score(c) - tree.score(place), 5) for c in children]
                assert steps == [-0.35667, -1.56065, -2.76462]
        target.commit(1, target.best_path(1)[:2])


def test_a_session_without_speculation_costs_nothing(make_target, toy_model):
    target, grower = make_target(toy_model)
    target.open(1, make_spec(PROMPT, speculation=SpeculationOptions(enabled=False)))
    target.grow()
    assert not any(frame.growths for frame in target.frames)
    assert grower.num_free_slots == grower.num_slots


@pytest.mark.parametrize("levels", [1, 3])
def test_a_failing_pass_costs_its_sessions_only(make_target, toy_model, monkeypatch, levels):
    target, grower = make_target(toy_model, draft_settings(levels=levels))
    target.open(1, make_spec(PROMPT))

    def fail(*_args, **_options):
        raise RuntimeError("boom")

    monkeypatch.setattr(Runner, "forward", fail)
    monkeypatch.setattr(NativeLevelGrower, "grow", fail)
    target.grow()
    assert target.refusals == {1: "INTERNAL"}
    assert grower.num_free_slots == grower.num_slots
    monkeypatch.undo()
    target.open(2, make_spec(PROMPT))
    target.grow()
    assert target.best_path(2)


def test_lookup_and_model_share_a_tree(make_target, toy_model):
    settings = DraftSettings(
        model="toy", kv_tokens=512, growth=GrowthSettings(max_rows_per_session=2)
    )
    target, _ = make_target(toy_model, settings)
    target.open(1, make_spec(PROMPT * 3 + PROMPT[:4], sampling=GREEDY))
    target.grow()
    sources = {node.source for node in target.trees[1]}
    assert sources == {TokenSource.DRAFT_MODEL, TokenSource.LOOKUP}
    for _ in range(5):
        target.commit(1, target.best_path(1)[:3])
        target.grow()
    assert len(target.trees[1]) > 20


def test_a_target_that_waits_for_all_of_a_tree_gets_it_in_few_frames(make_target, toy_model):
    frames = {}
    for shares_device in (False, True):
        settings = draft_settings(shares_device=shares_device, max_live_nodes=24, levels=1)
        target, _ = make_target(toy_model, settings)
        target.open(1, make_spec(PROMPT, sampling=GREEDY))
        target.grow()
        target.commit(1, [1, 2])
        target.frames.clear()
        target.grow()
        frames[shares_device] = len(target.frames)
        assert len(target.trees[1]) >= 24
        assert target.frames[-1].rests
    assert frames[True] == 1 < frames[False]


def test_children_that_are_hardly_reached_are_told_once_the_root_comes_near(make_target, toy_model):
    settings = draft_settings(
        max_live_nodes=96, num_children=8, min_score=-3.0, min_child_score=-4.0
    )
    target, _ = make_target(toy_model, settings)
    target.open(1, make_spec(PROMPT, sampling=GREEDY))
    target.grow()
    tree = target.trees[1]
    assert len(tree) > 8
    assert all(node.score >= -4.0 for node in tree)
    place = min(tree, key=lambda node: node.score if node.children else 0.0)
    before = set(place.children)
    # Its children were named when it was run, which it is not again.
    assert target.commit(1, [tree[i].token_id for i in tree.path(place.node_id)]).is_hit
    target.grow()
    assert before < set(tree.children(ROOT))
    assert all(node.score >= -4.0 for node in tree)


def test_a_target_with_little_time_for_a_token_is_told_of_fewer_nodes(make_target, toy_model):
    lengths = []
    for token_us in (100_000, 1000):
        settings = draft_settings(max_live_nodes=96, num_children=8)
        target, _ = make_target(toy_model, settings)
        target.send(economics=Economics(token_us=token_us))
        target.open(1, make_spec(PROMPT, sampling=GREEDY))
        target.grow()
        lengths.append(len(target.trees[1]))
        scores = [node.score for node in target.trees[1]]
        assert min(scores) >= max(-8.0, math.log(6 / token_us))
    assert lengths[0] > lengths[1] > 0


def test_with_little_credit_a_wide_drafter_still_drafts_and_stays_within_it(make_target, toy_model):
    growth = draft_settings().growth.on_own_cores()
    settings = draft_settings().model_copy(update={"growth": growth})
    drafter = make_target(toy_model, settings)[0].drafter
    target = FakeTarget(drafter, link_id=5, credit=100)
    target.open(1, make_spec(PROMPT, sampling=GREEDY))
    target.grow()
    assert 36 < len(target.trees[1]) <= 100  # `receive` counts the credit
    target.send(credit_nodes=200)
    target.grow()
    assert len(target.trees[1]) > 100


class _Overtaken:
    """A grower while whose step something arrives."""

    def __init__(self, grower):
        self._grower = grower
        self.arrives = []

    def __getattr__(self, name):
        return getattr(self._grower, name)

    def step(self, sessions):
        report = self._grower.step(sessions)
        if self.arrives:
            self.arrives.pop(0)()
        return report


def _commit_behind(target, token_ids):
    base_length = len(target.texts[1])
    target.texts[1].extend(token_ids)
    target.trees[1].reroot(token_ids)
    frame = TargetFrame(commits=[Commit(1, base_length, tuple(token_ids))])
    target.drafter.post(FrameArrived(target.link_id, frame, 0))


@pytest.mark.parametrize("sampling", [GREEDY, REJECTION], ids=["greedy", "rejection"])
def test_what_a_commit_ruled_out_while_a_step_ran_is_not_sent(tmp_path, toy_model, sampling):
    settings = draft_settings(max_live_nodes=24, num_children=3, levels=2)
    grower = _Overtaken(assemble(toy_model, settings).grower)
    target = FakeTarget(make_drafter(tmp_path, settings=settings, grower=grower))
    target.open(1, make_spec(PROMPT, sampling=sampling))
    grower.arrives.append(lambda: _commit_behind(target, [96]))  # nobody foresaw it
    target.drafter.step()
    assert not target.frames
    target.grow()
    (session,) = [session for session, _ in target.drafter._book.sessions]
    token_id = target.best_path(1)[0]
    target.commit(1, [token_id])
    grower.arrives.append(lambda: _commit_behind(target, target.best_path(1)[:1]))
    target.grow()  # it takes only what lives
    assert [(n.node_id, n.token_id) for n in target.trees[1]] == [
        (n.node_id, n.token_id) for n in session.tree
    ]


@pytest.mark.parametrize("ends", ["session", "link"])
def test_a_session_may_end_while_a_step_for_it_runs(tmp_path, toy_model, ends):
    settings = draft_settings(max_live_nodes=24, num_children=3, levels=2)
    grower = _Overtaken(assemble(toy_model, settings).grower)
    drafter = make_drafter(tmp_path, settings=settings, grower=grower)
    target = FakeTarget(drafter)
    target.open(1, make_spec(PROMPT))
    event = LinkClosed(1) if ends == "link" else FrameArrived(1, TargetFrame(closes=[1]), 0)
    grower.arrives.append(lambda: drafter.post(event))
    drafter.step()
    assert not target.frames
    assert not drafter._book.changed
    assert grower.num_free_slots == grower.num_slots
    assert not drafter.step()


def test_a_full_tree_rests_in_the_frame_that_filled_it(tmp_path, toy_model):
    settings = draft_settings(max_live_nodes=6, num_children=3, levels=2)
    drafter = make_drafter(tmp_path, settings=settings, grower=assemble(toy_model, settings).grower)
    target = FakeTarget(drafter)
    target.open(1, make_spec(PROMPT))
    target.drafter.step()
    assert len(target.trees[1]) >= 6
    (frame,) = target.frames
    assert frame.growths
    assert frame.rests == [Rest(1, len(PROMPT))]
    target.commit(1, [target.best_path(1)[0]])
    target.grow()
    assert [one.base_length for frame in target.frames for one in frame.rests] == [
        len(PROMPT),
        len(PROMPT) + 1,
    ]
