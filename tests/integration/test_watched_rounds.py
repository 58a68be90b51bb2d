"""Watching a request tells what happened in each round, and changes nothing else."""

import random
from dataclasses import replace

import pytest
from tests.engine_harness import EngineHarness, load_toy, spec
from tests.scripted_drafters import GuessingDrafter
from tests.unit.coordinator.cluster import HELLO, a_cluster, ask, text_of
from tests.unit.coordinator.support import FakeTarget, encode, output, says

from treedraft.core.generation import Delta
from treedraft.core.growth import TokenSource
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, Verification
from treedraft.core.session import FinishReason, RoundReport, SessionSpec
from treedraft.inference.toy import make_toy_model
from treedraft.rpc import convert
from treedraft.target import step
from treedraft.target.settings import BudgetSettings, GateSettings, KVSettings, TargetSettings

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
LAWS = {
    "greedy": SamplingParameters(temperature=0.0, seed=1),
    "warm": SamplingParameters(temperature=0.7, seed=5),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_toy(make_toy_model(tmp_path_factory.mktemp("toy") / "llama", seed=3))


def run(model, session: SessionSpec, truth=None, *, with_laws: bool = False):
    settings = TargetSettings(
        kv=KVSettings(tokens=4096, block_size=8),
        budget=BudgetSettings(mode="fixed", max_nodes=12, max_depth=6),
        gate=GateSettings(enabled=False),  # drafted whether or not it pays
    )
    drafter = None
    if truth is not None:
        drafter = GuessingDrafter(
            {session.session_id: truth},
            random.Random(2),
            vocab_size=model.vocab_size,
            with_laws=with_laws,
        )
    with EngineHarness(model, settings, drafter, is_lockstep=True) as harness:
        (result,) = harness.run(session)
        return result


def truth_of(model, session: SessionSpec) -> list[int]:
    off = replace(session, speculation=SpeculationOptions(enabled=False))
    return [*session.token_ids, *run(model, off).token_ids]


@pytest.mark.parametrize("law", LAWS)
def test_reports_tell_the_whole_text_and_watching_does_not_change_it(model, law):
    session = spec(PROMPT, sampling=LAWS[law], max_tokens=48)
    truth = truth_of(model, session)
    unwatched = run(model, session, truth)
    watched = run(model, replace(session, watch_rounds=True), truth)
    assert watched.token_ids == unwatched.token_ids == truth[len(PROMPT) :]
    assert unwatched.rounds == []
    assert len(watched.rounds) == watched.finish.statistics.rounds
    told, length = [], len(PROMPT)
    for report in watched.rounds:
        assert report.base_length == length
        told += tokens_of(report)
        length = report.end_length
    assert told == watched.token_ids
    assert sum(len(report.accepted) for report in watched.rounds) > 0


def tokens_of(report: RoundReport) -> list[int]:
    """Return what a round emitted; its path must hang together."""
    place, tokens = -1, []
    for node in report.accepted:
        assert report.parents[node] == place
        tokens.append(report.token_ids[node])
        place = node
    return tokens if report.bonus_token_id is None else [*tokens, report.bonus_token_id]


def test_counts_and_times_of_reports_add_up_to_the_statistics(model):
    session = spec(PROMPT, max_tokens=40)
    result = run(model, replace(session, watch_rounds=True), truth_of(model, session))
    statistics, rounds = result.finish.statistics, result.rounds
    assert sum(len(report.token_ids) for report in rounds) == statistics.admitted_nodes
    assert sum(len(report.accepted) for report in rounds) == statistics.accepted_nodes
    assert sum(report.late_nodes for report in rounds) <= statistics.dropped_nodes
    assert sum(report.is_hit is True for report in rounds) == statistics.hits
    mean = sum(report.times.forward for report in rounds) / len(rounds)
    assert mean == pytest.approx(statistics.round_ms.forward)
    for report in rounds:
        assert set(report.sources) <= {TokenSource.DRAFT_MODEL}
        for node, parent in enumerate(report.parents):
            above = 0.0 if parent < 0 else report.scores[parent]
            assert report.scores[node] <= above


def test_rejection_mode_can_be_watched(model):
    sampling = SamplingParameters(seed=4, verification=Verification.REJECTION)
    session = spec(PROMPT, sampling=sampling, max_tokens=24)
    truth = truth_of(model, session)
    watched = run(model, replace(session, watch_rounds=True), truth, with_laws=True)
    assert [t for report in watched.rounds for t in tokens_of(report)] == watched.token_ids


def test_nobody_pays_who_does_not_watch(model, monkeypatch):
    """Without a watcher no report is made, no score read, and no byte sent."""

    def fail(*_):
        raise AssertionError("made for nobody")

    monkeypatch.setattr(step, "report_round", fail)
    monkeypatch.setattr(step, "node_scores", fail)
    session = spec(PROMPT, max_tokens=24)
    result = run(model, session, truth_of(model, session))
    assert result.failure is None
    assert len(result.token_ids) == 24
    unwatched = convert.outputs_to_proto([output(session, 0, [1, 2])]).outputs[0]
    assert not unwatched.HasField("round")
    assert unwatched.ByteSize() < 24


def reported(session: SessionSpec, base: int, piece: list[int], reason: FinishReason | None):
    report = RoundReport(base_length=session.prompt_length + base, bonus_token_id=piece[-1])
    drafted = tuple(piece[:-1])
    report = replace(
        report,
        parents=tuple(range(-1, len(drafted) - 1)),
        token_ids=drafted,
        scores=(-0.5,) * len(drafted),
        sources=(TokenSource.LOOKUP,) * len(drafted),
        accepted=tuple(range(len(drafted))),
    )
    said = output(session, base, piece, reason)
    sources = (*report.sources, TokenSource.TARGET)
    return replace(said, sources=sources, round=report if session.watch_rounds else None)


def tells_rounds(text: str):
    def script(session: SessionSpec):
        return [
            reported(session, item.base_length - session.prompt_length, list(item.token_ids), end)
            for item in says(text)(session)
            for end in [item.finish.reason if item.finish else None]
        ]

    return script


async def test_rounds_reach_a_client_who_asks_for_them():
    async with a_cluster() as cluster:
        await cluster.add_target(FakeTarget(script=tells_rounds("speculation!")))
        watched = await ask(cluster.client, replace(HELLO, watch_rounds=True))
        unwatched = await ask(cluster.client, HELLO)
    rounds = [r for event in watched if isinstance(event, Delta) for r in event.rounds]
    assert [t for r in rounds for t in tokens_of(r)] == encode("speculation!")
    assert rounds[0].sources == (TokenSource.LOOKUP, TokenSource.LOOKUP)
    assert [r for event in unwatched if isinstance(event, Delta) for r in event.rounds] == []


async def test_each_character_of_a_watched_text_has_a_source():
    async with a_cluster() as cluster:
        await cluster.add_target(FakeTarget(script=tells_rounds("speculation!")))
        watched = await ask(cluster.client, replace(HELLO, watch_rounds=True))
        unwatched = await ask(cluster.client, HELLO)
    deltas = [event for event in watched if isinstance(event, Delta)]
    marks = [source for delta in deltas for source in delta.text_sources]
    assert len(marks) == len(text_of(watched)) == len("speculation!")
    # A character a token here, so the marks are the sources of the tokens.
    assert marks == [source for delta in deltas for source in delta.sources]
    assert {TokenSource.LOOKUP, TokenSource.TARGET} == {*marks}
    assert all(not event.text_sources for event in unwatched if isinstance(event, Delta))
