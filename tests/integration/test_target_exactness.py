"""Whatever drafters do, the target says what it would have said alone."""

import random
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine_harness import (
    EngineHarness,
    TieBook,
    assert_same_but_for_ties,
    load_toy,
    reference_logits,
    spec,
)
from tests.scripted_drafters import GuessingDrafter

from treedraft.coordinator.failures import error_of
from treedraft.core.errors import OverloadedError
from treedraft.core.exchange import DraftFrame, LogAcknowledgement
from treedraft.core.growth import Growth, TokenSource
from treedraft.core.sampling import (
    SamplingParameters,
    SpeculationOptions,
    StoppingCriteria,
    Verification,
)
from treedraft.core.session import FinishReason
from treedraft.inference.toy import make_toy_model
from treedraft.target.events import AcknowledgeLog, StartSession
from treedraft.target.settings import BudgetSettings, GateSettings, KVSettings, TargetSettings

GREEDY = SamplingParameters(temperature=0.0, seed=1)
LAWS = {
    "greedy": GREEDY,
    "warm": SamplingParameters(temperature=0.6, top_p=0.95, seed=7),
    "hot": SamplingParameters(temperature=1.0, top_p=0.95, seed=8),
    "plain": SamplingParameters(temperature=1.0, seed=2**64 - 1),
    "cut": SamplingParameters(temperature=0.9, top_k=20, min_p=0.02, seed=9),
    "penalised": SamplingParameters(
        temperature=0.8,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias=((5, 2.0), (9, -3.0)),
        seed=10,
    ),
    "greedy, penalised": SamplingParameters(temperature=0.0, repetition_penalty=1.3, seed=1),
}


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / request.param
    return load_toy(make_toy_model(folder, architecture=request.param, seed=3))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return load_toy(make_toy_model(tmp_path_factory.mktemp("toy") / "llama", seed=3))


def target_settings(**changes) -> TargetSettings:
    return TargetSettings(
        kv=changes.pop("kv", KVSettings(tokens=8192, block_size=8)),
        budget=changes.pop("budget", BudgetSettings(mode="fixed", max_nodes=16, max_depth=8)),
        # Nothing pays where a pass takes less than a millisecond.
        gate=GateSettings(enabled=False),
        **changes,
    )


def prompt(seed: int, model, length: int = 20) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(model.vocab_size) for _ in range(length)]


def plain(model, *specs, **changes):
    """Return what the engine says without speculation."""
    with EngineHarness(model, target_settings(**changes)) as harness:
        off = SpeculationOptions(enabled=False)
        results = harness.run(*(replace(one, speculation=off) for one in specs))
    return {one.session_id: r.token_ids for one, r in zip(specs, results, strict=True)}


def drafter_for(model, specs, texts, seed=0, **options):
    truth = {one.session_id: [*one.token_ids, *texts[one.session_id]] for one in specs}
    return GuessingDrafter(truth, random.Random(seed), vocab_size=model.vocab_size, **options)


def compare(model, specs, texts, results, harness, book=None):
    book = book or TieBook()
    for one, result in zip(specs, results, strict=True):
        assert result.failure is None
        assert_same_but_for_ties(
            model,
            one,
            texts[one.session_id],
            lambda later: harness.run(later)[0].token_ids,
            result.token_ids,
            book,
        )
    return book


def test_greedy_without_drafts_is_what_transformers_says(model):
    tokens = prompt(0, model)
    texts = plain(model, spec(tokens, max_tokens=24))
    logits = reference_logits(model, tokens + texts["s"])
    drawn = logits[len(tokens) - 1 : -1].argmax(dim=-1).tolist()
    assert texts["s"] == drawn


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("depth", "width"), [(6, 1), (4, 3)], ids=["chain", "tree"])
def test_speculation_changes_no_token(model, law, depth, width):
    specs = [spec(prompt(1, model), sampling=LAWS[law], max_tokens=40)]
    texts = plain(model, *specs)
    drafter = drafter_for(model, specs, texts, depth=depth, width=width)
    with EngineHarness(model, target_settings(), drafter, is_lockstep=True) as harness:
        results = harness.run(*specs)
        compare(model, specs, texts, results, harness)
    statistics = results[0].finish.statistics
    assert statistics.accepted_nodes > 5
    assert statistics.tokens_per_round > 1.2
    assert statistics.emitted_tokens == 40


@pytest.mark.parametrize("max_nodes", [0, 1, 2, 5, 16, 64])
def test_no_budget_changes_a_token(llama, max_nodes):
    specs = [spec(prompt(2, llama), sampling=LAWS["hot"], max_tokens=40)]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts, depth=5, width=3)
    budget = BudgetSettings(mode="fixed", max_nodes=max_nodes)
    with EngineHarness(llama, target_settings(budget=budget), drafter, is_lockstep=True) as harness:
        results = harness.run(*specs)
        compare(llama, specs, texts, results, harness)
    assert (results[0].finish.statistics.admitted_nodes > 0) == (max_nodes > 0)


def test_goodput_budget_changes_no_token(llama):
    specs = [spec(prompt(2, llama), sampling=LAWS["hot"], max_tokens=40)]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts)
    with EngineHarness(llama, target_settings(budget=BudgetSettings()), drafter) as harness:
        compare(llama, specs, texts, harness.run(*specs), harness)


def test_a_batch_of_mixed_laws_is_the_sum_of_its_sessions(model):
    laws = list(LAWS.values())
    specs = [
        spec(
            prompt(i, model, length=5 + 7 * i),
            session_id=f"s{i}",
            sampling=replace(laws[i % len(laws)], seed=i),
            max_tokens=30,
        )
        for i in range(16)
    ]
    alone = {}
    for one in specs:
        alone.update(plain(model, one))
    drafter = drafter_for(model, specs, alone)
    with EngineHarness(model, target_settings(prefill_chunk=32), drafter) as harness:
        results = harness.run(*specs)
        compare(model, specs, alone, results, harness)
    assert sum(r.finish.statistics.accepted_nodes for r in results) > 100


def test_a_drafter_that_dies_half_way_costs_no_token(llama):
    specs = [
        spec(prompt(i, llama), session_id=f"s{i}", sampling=LAWS["warm"], max_tokens=60)
        for i in range(4)
    ]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts)
    with EngineHarness(llama, target_settings(), drafter) as harness:
        harness.start(*specs)
        harness.pump(lambda: len(harness.results["s0"].token_ids) > 20)
        harness.kill_drafter()
        harness.pump(lambda: len(harness.results["s0"].token_ids) > 35)
        harness.revive_drafter(drafter_for(llama, specs, texts, seed=5))
        harness.pump(lambda: all(harness.results[s.session_id].is_over for s in specs))
        results = [harness.results[s.session_id] for s in specs]
        compare(llama, specs, texts, results, harness)
    assert any(TokenSource.DRAFT_MODEL in r.sources[40:] for r in results)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    trouble=st.sampled_from([0.1, 0.4, 0.8]),
    law=st.sampled_from(sorted(LAWS)),
    max_nodes=st.sampled_from([1, 4, 16, 48]),
)
def test_no_interleaving_of_growth_commits_and_drops_changes_a_token(
    llama, seed, trouble, law, max_nodes
):
    specs = [
        spec(
            prompt(seed + i, llama, length=9),
            session_id=f"s{i}",
            sampling=replace(LAWS[law], seed=seed + i),
            max_tokens=24,
        )
        for i in range(3)
    ]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts, seed=seed, trouble=trouble, width=2)
    budget = BudgetSettings(mode="fixed", max_nodes=max_nodes, max_depth=6)
    with EngineHarness(llama, target_settings(budget=budget), drafter) as harness:
        compare(llama, specs, texts, harness.run(*specs), harness)
    assert not harness.refused_links, "an honest drafter was refused"


def test_preemption_changes_no_token(llama):
    kv = KVSettings(tokens=256, block_size=8)
    specs = [
        spec(prompt(i, llama), session_id=f"s{i}", sampling=LAWS["hot"], max_tokens=70)
        for i in range(5)
    ]
    texts = plain(llama, *specs)
    drafter = drafter_for(llama, specs, texts)
    with EngineHarness(llama, target_settings(kv=kv), drafter) as harness:
        results = harness.run(*specs)
        compare(llama, specs, texts, results, harness)
        assert harness.pool.num_free == harness.pool.num_blocks
    num_preemptions = sum(r.finish.statistics.preemptions for r in results)
    counted = harness.metrics.observed.get_sample_value("treedraft_preemptions_total")
    assert counted >= num_preemptions > 0


def test_a_shared_prefix_changes_no_token_and_saves_prefill(llama):
    common = prompt(3, llama, length=64)
    first = spec([*common, 1, 2, 3], session_id="a", max_tokens=20)
    second = spec([*common, 4, 5], session_id="b", max_tokens=20)
    stranger = spec([*common, 4, 5], session_id="c", max_tokens=20, tenant_salt=b"other")
    texts = plain(llama, first)
    texts |= plain(llama, second)
    texts["c"] = texts["b"]
    specs = [first, second, stranger]
    with EngineHarness(llama, target_settings(), drafter_for(llama, specs, texts)) as harness:
        results = [harness.run(one)[0] for one in specs]
        compare(llama, specs, texts, results, harness)
    cached = [r.finish.statistics.cached_prompt_tokens for r in results]
    assert cached == [0, 64, 0]


def test_a_session_that_starts_further_on_says_the_rest(llama):
    whole = spec(prompt(4, llama), sampling=LAWS["penalised"], max_tokens=30)
    texts = plain(llama, whole)
    moved = replace(whole, token_ids=(*whole.token_ids, *texts["s"][:11]), epoch=2)
    with EngineHarness(llama, target_settings(), drafter_for(llama, [whole], texts)) as harness:
        [result] = harness.run(moved)
    assert result.token_ids == texts["s"][11:]


def test_a_session_that_moves_after_its_last_token_says_nothing_more(llama):
    whole = spec(prompt(4, llama), max_tokens=10)
    texts = plain(llama, whole)
    moved = replace(whole, token_ids=(*whole.token_ids, *texts["s"]), epoch=2)
    with EngineHarness(llama, target_settings()) as harness:
        [result] = harness.run(moved)
        assert harness.pool.num_free == harness.pool.num_blocks
    assert result.token_ids == []
    assert result.finish.reason is FinishReason.LENGTH


def test_rejection_sampling_runs_through_the_engine(llama):
    # Cold, so that the text stays near the greedy one that the drafter knows.
    law = SamplingParameters(temperature=0.02, seed=5, verification=Verification.REJECTION)
    specs = [spec(prompt(5, llama), sampling=law, max_tokens=60)]
    texts = plain(llama, spec(prompt(5, llama), max_tokens=60))
    drafter = drafter_for(llama, specs, texts, with_laws=True, width=2)
    # In step with its log, so that the drafter's answer is there before each pass.
    in_step = target_settings(max_unlogged_tokens=0)
    with EngineHarness(llama, in_step, drafter) as harness:
        [result] = harness.run(*specs)
    statistics = result.finish.statistics
    assert len(result.token_ids) == 60
    assert statistics.admitted_nodes > 0
    assert statistics.accepted_nodes > 0


def test_sixty_four_sessions_share_passes(llama):
    specs = [
        spec(prompt(i, llama, length=10), session_id=f"s{i}", sampling=LAWS["warm"], max_tokens=16)
        for i in range(64)
    ]
    texts = plain(llama, *specs)
    with EngineHarness(llama, target_settings(), drafter_for(llama, specs, texts)) as harness:
        results = harness.run(*specs)
        book = compare(llama, specs, texts, results, harness)
    assert book.num_tokens >= 64 * 16 - 16


class LyingDrafter:
    """Answers the first frame with a growth that breaks a rule."""

    def __init__(self, growth):
        self.growth = growth

    def __call__(self, frame):
        return [
            DraftFrame(growths=[replace(self.growth, session_number=opened.session_number)])
            for opened in frame.opens
        ]


def growth(**changes) -> Growth:
    honest = Growth(
        session_number=0,
        base_length=20,
        first_node_id=0,
        parent_offsets=(0, 1),
        token_ids=(1, 2),
        scores=(-0.1, -0.2),
        sources=(TokenSource.LOOKUP,) * 2,
    )
    return replace(honest, **changes)


@pytest.mark.parametrize(
    "lie",
    [
        growth(parent_offsets=(0, 7)),
        growth(token_ids=(1, 10**6)),
        growth(scores=(0.5, -1.0)),
        growth(scores=(-1.0, -0.5)),
        growth(scores=(float("nan"), -1.0)),
        growth(base_length=10**6),
        growth(parent_offsets=(0,)),
        growth(
            parent_offsets=(0,) * 100_000,
            token_ids=(1,) * 100_000,
            scores=(-1.0,) * 100_000,
            sources=(TokenSource.LOOKUP,) * 100_000,
        ),
    ],
    ids=["parent", "token", "positive", "rising", "nan", "ahead", "ragged", "flood"],
)
def test_a_lying_drafter_is_refused_and_costs_no_token(llama, lie):
    one = spec(prompt(6, llama), max_tokens=20)
    texts = plain(llama, one)
    with EngineHarness(llama, target_settings(), LyingDrafter(lie), is_lockstep=True) as harness:
        [result] = harness.run(one)
    assert result.token_ids == texts["s"]
    assert harness.refused_links.keys() == {"fake:1"}


class FloodingDrafter:
    """Sends honest nodes, but far more of them than it was granted."""

    def __call__(self, frame):
        return [
            DraftFrame(
                growths=[
                    growth(
                        session_number=opened.session_number,
                        first_node_id=1000 * index,
                        parent_offsets=(0,) * 1000,
                        token_ids=tuple(range(500)) * 2,
                        scores=(-1.0,) * 1000,
                        sources=(TokenSource.LOOKUP,) * 1000,
                    )
                ]
            )
            for opened in frame.opens
            for index in range(20)
        ]


def test_a_drafter_that_sends_beyond_its_credit_is_refused(llama):
    one = spec(prompt(6, llama), max_tokens=20)
    texts = plain(llama, one)
    with EngineHarness(llama, target_settings(), FloodingDrafter(), is_lockstep=True) as harness:
        [result] = harness.run(one)
    assert result.token_ids == texts["s"]
    assert "granted" in harness.refused_links["fake:1"]


def test_a_stale_tree_is_dropped_and_counted(llama):
    one = spec(prompt(6, llama), max_tokens=20)
    texts = plain(llama, one)
    wrong = (texts["s"][0] + 1) % llama.vocab_size
    drafter = GuessingDrafter({}, random.Random(0), vocab_size=llama.vocab_size)
    late = []

    def delayed(frame):
        frames = drafter(frame)
        late.extend(frames)
        # The first answers come when their base is long gone.
        return [late.pop(0)] if len(late) > 4 else []

    with EngineHarness(llama, target_settings(), delayed) as harness:
        [result] = harness.run(one)
    assert result.token_ids == texts["s"]
    assert result.finish.statistics.dropped_nodes > 0
    assert wrong not in texts["s"][:1]
    assert not harness.refused_links


def test_a_session_whose_log_is_behind_pauses_and_does_not_spin(llama, monkeypatch):
    one = spec(prompt(6, llama), max_tokens=30)
    with EngineHarness(llama, target_settings(max_unlogged_tokens=4)) as harness:
        plans = []
        scheduler = harness.engine._scheduler
        plan = scheduler.plan
        monkeypatch.setattr(scheduler, "plan", lambda: plans.append(1) or plan())
        harness.acknowledges = False
        harness.start(one)
        harness.pump(lambda: len(harness.results["s"].token_ids) == 5)
        before = len(plans)
        time.sleep(0.3)
        assert len(harness.results["s"].token_ids) == 5
        assert len(plans) - before < 40, "the engine spins while there is nothing to do"
        harness.acknowledges = True
        harness.engine.post(AcknowledgeLog(LogAcknowledgement("s", len(one.token_ids) + 5)))
        harness.pump(lambda: harness.results["s"].is_over)
    assert len(harness.results["s"].token_ids) == 30


def test_cancelling_frees_all_pages(llama):
    one = spec(prompt(7, llama), max_tokens=2000, session_id="long")
    with EngineHarness(llama, target_settings()) as harness:
        harness.start(one)
        harness.pump(lambda: len(harness.results["long"].token_ids) > 3)
        harness.cancel("long")
        harness.pump(lambda: harness.results["long"].is_over)
        assert harness.results["long"].finish.reason is FinishReason.CANCELLED
        assert harness.pool.num_free == harness.pool.num_blocks


def test_a_deadline_ends_a_session_and_no_other(llama):
    hurried = spec(prompt(8, llama), max_tokens=2000, session_id="a", time_limit_seconds=0.2)
    patient = spec(prompt(8, llama), max_tokens=10, session_id="b")
    with EngineHarness(llama, target_settings()) as harness:
        first, second = harness.run(hurried, patient)
    assert first.finish.reason is FinishReason.CANCELLED
    assert len(second.token_ids) == 10


def test_a_first_token_that_cannot_be_in_time_is_refused_and_one_that_moved_here_is_not(llama):
    settings = target_settings(first_token={"seconds": 1e-9, "prompt_factor": 0.0})
    words = prompt(8, llama)
    late = spec(words, max_tokens=10, session_id="late")
    moved = spec([*words, 5], prompt_length=len(words), max_tokens=10, session_id="moved")
    with EngineHarness(llama, settings) as harness:
        refused, served = harness.run(late, moved)
        assert harness.pool.num_free == harness.pool.num_blocks
    assert refused.failure.reason == "FIRST_TOKEN_LATE"
    assert not refused.token_ids
    assert isinstance(error_of(refused.failure), OverloadedError)
    assert len(served.token_ids) == 9


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (spec([]), "EMPTY_PROMPT"),
        (spec([1, 2, 10**6]), "TOKEN_OUT_OF_RANGE"),
        (spec([1] * 9000), "PROMPT_TOO_LONG"),
        (spec([1, 2], sampling=SamplingParameters()), "INVALID_REQUEST"),
        (
            spec([1, 2], sampling=SamplingParameters(seed=1, logit_bias=((10**6, 1.0),))),
            "TOKEN_OUT_OF_RANGE",
        ),
    ],
)
def test_bad_input_fails_its_session_alone(llama, bad, reason):
    good = spec(prompt(9, llama), session_id="good", max_tokens=5)
    with EngineHarness(llama, target_settings()) as harness:
        failed, fine = harness.run(replace(bad, session_id="bad"), good)
        assert failed.failure.reason == reason
        assert len(fine.token_ids) == 5
        assert harness.pool.num_free == harness.pool.num_blocks


def test_an_older_owner_loses_against_a_newer_one(llama):
    tokens = prompt(10, llama)
    with EngineHarness(llama, target_settings()) as harness:
        harness.start(spec(tokens, max_tokens=500, epoch=5))
        harness.pump(lambda: len(harness.results["s"].token_ids) > 2)
        [late] = harness.run(spec(tokens, max_tokens=5, epoch=4))
    assert late.failure.reason == "SESSION_CONFLICT"


def test_an_owner_whose_session_a_newer_one_starts_is_told_so(llama):
    tokens = prompt(10, llama)
    with EngineHarness(llama, target_settings()) as harness:
        harness.start(spec(tokens, max_tokens=500, epoch=4))
        harness.pump(lambda: len(harness.results["s"].token_ids) > 2)
        older = harness.results["s"]
        harness.engine.post(StartSession(2, spec(tokens, max_tokens=5, epoch=5)))
        harness.pump(lambda: older.is_over)
    assert older.finish is None  # cut off is not finished
    assert older.failure.reason == "SESSION_CONFLICT"


@pytest.mark.parametrize("speculate", [False, True])
def test_stop_tokens_and_limits_end_the_walk(llama, speculate):
    one = spec(prompt(11, llama), max_tokens=30)
    texts = plain(llama, one)
    stop_at = texts["s"][12]
    first = texts["s"].index(stop_at)
    stopping = StoppingCriteria(max_tokens=30, ignore_eos=True, stop_token_ids=frozenset({stop_at}))
    drafter = drafter_for(llama, [one], texts, accuracy=1.0) if speculate else None
    with EngineHarness(llama, target_settings(), drafter) as harness:
        [result] = harness.run(replace(one, stopping=stopping))
    assert result.token_ids == texts["s"][: first + 1]
    assert result.finish.reason is FinishReason.STOP


def test_a_forward_that_fails_ends_its_sessions_and_frees_their_pages(llama, monkeypatch):
    with EngineHarness(llama, target_settings()) as harness:
        runner = harness.engine._runner._runner
        forward = runner.forward

        def broken(segments):
            monkeypatch.setattr(runner, "forward", forward)
            raise RuntimeError("the device fell off the bus")

        monkeypatch.setattr(runner, "forward", broken)
        [failed] = harness.run(spec(prompt(12, llama), session_id="bad"))
        [fine] = harness.run(spec(prompt(12, llama), session_id="good", max_tokens=4))
        assert failed.failure.reason == "PASS_FAILED"
        assert len(fine.token_ids) == 4
        assert harness.pool.num_free == harness.pool.num_blocks


def test_the_reference_is_deterministic(llama):
    torch.manual_seed(0)
    one = spec(prompt(13, llama), sampling=LAWS["plain"], max_tokens=20)
    assert plain(llama, one) == plain(llama, one)
