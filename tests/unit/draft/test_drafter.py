"""The exchange from the drafter's side: credit, gaps, refusals, many links."""

import threading

import pytest
from draft_support import SAMPLED, FakeTarget, make_drafter, make_spec
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.waiting import PATIENCE_SECONDS

from treedraft.core.exchange import Commit, Rest, SessionOpen, TargetFrame
from treedraft.core.sampling import SamplingParameters, SpeculationOptions
from treedraft.draft.links import FrameArrived, LinkClosed, LinkOpened, Stop
from treedraft.draft.settings import DraftSettings, GrowthSettings
from treedraft.telemetry import names

TEXT = [*range(10, 40), 10, 11, 12]
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def target(tmp_path):
    return FakeTarget(make_drafter(tmp_path))


def test_a_session_is_grown_as_soon_as_it_is_open(target):
    target.open(1, make_spec(TEXT))
    target.grow()
    assert target.best_path(1)[:5] == [13, 14, 15, 16, 17]
    growth = target.frames[0].growths[0]
    assert growth.base_length == len(TEXT)
    assert growth.held_us > 0
    assert growth.draft_us >= 0


def test_a_hit_keeps_the_tree_and_a_miss_starts_afresh(target):
    target.open(1, make_spec(TEXT))
    target.grow()
    before = len(target.trees[1])
    assert target.commit(1, [13, 14]).is_hit
    target.grow()
    assert len(target.trees[1]) >= before - 2
    assert not target.commit(1, [77, 20, 21]).is_hit
    target.grow()
    assert target.best_path(1)[:3] == [22, 23, 24]


def test_growth_never_exceeds_the_credit_and_resumes_with_it(tmp_path):
    target = FakeTarget(make_drafter(tmp_path), credit=3)
    target.open(1, make_spec(TEXT))
    target.grow()
    assert len(target.trees[1]) == 3
    target.send(credit_nodes=4)
    target.grow()
    assert len(target.trees[1]) == 7
    assert target.credit == 0


@pytest.mark.parametrize("base_length", [len(TEXT) - 1, len(TEXT) + 1, 0])
def test_a_gap_in_commits_is_answered_with_a_wish_to_reopen(target, base_length):
    target.open(1, make_spec(TEXT))
    target.send(commits=[Commit(1, base_length, (5,))])
    target.grow()
    assert target.reopens == {1: len(TEXT)}
    assert target.trees[1].next_node_id == 0
    # Opened again it goes on, under a new number as targets do it.
    target.open(2, make_spec(TEXT))
    target.grow()
    assert target.best_path(2)


def test_opening_a_known_number_starts_it_afresh(target):
    target.open(1, make_spec(TEXT))
    target.grow()
    target.open(1, make_spec(TEXT))
    target.grow()
    assert target.best_path(1)[:2] == [13, 14]
    assert target.drafter.report.num_sessions == 1


def test_what_is_no_session_is_refused_and_the_others_go_on(target):
    target.open(1, make_spec(TEXT))
    bad = {
        2: make_spec([]),
        3: make_spec([1, 2], prompt_length=3),
        4: make_spec(TEXT, sampling=SamplingParameters(temperature=1.0)),
    }
    target.send(opens=[SessionOpen(number, spec) for number, spec in bad.items()])
    target.grow()
    assert target.refusals == dict.fromkeys(bad, "INVALID_SESSION")
    assert target.best_path(1)


def test_a_full_drafter_refuses_and_has_room_again_after_a_close(tmp_path):
    target = FakeTarget(make_drafter(tmp_path, settings=DraftSettings(max_sessions=1)))
    target.open(1, make_spec(TEXT))
    target.open(2, make_spec(TEXT))
    target.grow()
    assert target.refusals == {2: "TOO_MANY_SESSIONS"}
    target.send(closes=[1])
    target.open(3, make_spec(TEXT))
    target.grow()
    assert target.best_path(3)


def test_a_draining_drafter_takes_no_new_sessions_but_keeps_the_old(target):
    target.open(1, make_spec(TEXT))
    target.drafter.drain()
    target.open(2, make_spec(TEXT))
    target.grow()
    assert target.refusals == {2: "DRAINING"}
    assert target.best_path(1)
    assert target.drafter.report.is_draining


def test_commits_and_closes_of_unknown_sessions_are_ignored(target):
    target.send(commits=[Commit(9, 3, (1,))], closes=[9, 10])
    target.open(1, make_spec(TEXT))
    target.send(commits=[Commit(1, len(TEXT), ())])
    target.grow()
    assert not target.refusals
    assert not target.reopens


def test_a_link_that_closes_takes_its_sessions_with_it_and_no_others(tmp_path):
    drafter = make_drafter(tmp_path)
    one, two = FakeTarget(drafter, link_id=1), FakeTarget(drafter, link_id=2)
    one.open(1, make_spec(TEXT))
    two.open(1, make_spec(TEXT))
    drafter.take(LinkClosed(1))
    drafter.take(LinkClosed(1))
    two.grow()
    assert drafter.report.num_sessions == 1
    assert one.frames == []
    assert two.best_path(1)
    one.send(commits=[Commit(1, len(TEXT), (5,))])
    assert not drafter.step()


def test_a_frame_is_never_larger_than_a_target_takes(tmp_path):
    settings = DraftSettings(max_sessions=200, growth=GrowthSettings(max_live_nodes=64))
    target = FakeTarget(make_drafter(tmp_path, settings=settings))
    for number in range(1, 151):
        target.open(number, make_spec(TEXT))
    target.grow()
    sizes = [sum(g.num_nodes for g in frame.growths) for frame in target.frames]
    assert max(sizes) <= 1024
    assert all(target.best_path(number) for number in range(1, 151))


def test_a_session_without_speculation_gets_no_nodes(target):
    target.open(1, make_spec(TEXT, speculation=SpeculationOptions(max_nodes=0)))
    target.grow()
    assert not any(frame.growths for frame in target.frames)


def test_a_drafter_says_once_for_each_commit_that_it_rests(target):
    target.open(1, make_spec(TEXT))
    target.grow()
    target.grow()
    assert rests_of(target) == [Rest(1, len(TEXT))]
    target.commit(1, [7])
    target.grow()
    assert rests_of(target) == [Rest(1, len(TEXT)), Rest(1, len(TEXT) + 1)]


def test_a_paused_session_costs_nothing_until_its_next_commit(target):
    target.open(1, make_spec(TEXT))
    target.open(2, make_spec(TEXT))
    target.send(pauses=[1])
    target.grow()
    assert not len(target.trees[1])
    assert len(target.trees[2])
    assert rests_of(target) == [Rest(2, len(TEXT))]
    target.commit(1, [13, 14, 15, 16])  # all that came meanwhile
    target.grow()
    assert target.best_path(1)[:3] == [17, 18, 19]
    assert rests_of(target)[-1] == Rest(1, len(TEXT) + 4)


def test_a_pause_in_the_midst_of_growth_keeps_both_trees_alike(target):
    target.open(1, make_spec(TEXT))
    target.grow()
    target.send(pauses=[1])
    target.send(pauses=[1, 99])  # twice, and of nobody
    assert not target.drafter.step()
    target.commit(1, [13, 14])
    target.grow()  # the fake target checks that no node is lost
    assert target.best_path(1)[:3] == [15, 16, 17]


def rests_of(target):
    return [rest for frame in target.frames for rest in frame.rests]


def test_a_traced_session_has_a_span_per_step_and_an_untraced_one_none(tmp_path):
    exporter = InMemorySpanExporter()
    drafter = make_drafter(tmp_path, exporter=exporter)
    target = FakeTarget(drafter)
    target.open(1, make_spec(TEXT, traceparent=TRACEPARENT))
    target.open(2, make_spec(TEXT))
    target.grow()
    target.send(closes=[1, 2])
    drafter._tracing.shutdown()
    spans = exporter.get_finished_spans()
    (session_span,) = [s for s in spans if s.name == names.SPAN_DRAFT_SESSION]
    grows = [s for s in spans if s.name == names.SPAN_GROW]
    assert session_span.parent.span_id == 0xBBBBBBBBBBBBBBBB
    assert all(s.context.trace_id == int("a" * 32, 16) for s in spans)
    assert all(s.parent.span_id == session_span.context.span_id for s in grows)
    total = sum(s.attributes[names.ATTR_GROW_NODES] for s in grows)
    assert total == len(target.trees[1])


def test_the_thread_drafts_sleeps_and_stops(tmp_path):
    drafter = make_drafter(tmp_path)
    frames, arrived, ended = [], threading.Event(), threading.Event()

    def send(frame):
        frames.append(frame)
        arrived.set()

    drafter.start(ended.set)
    drafter.post(LinkOpened(1, 512, send))
    opened = SessionOpen(1, make_spec(TEXT, sampling=SAMPLED))
    drafter.post(FrameArrived(1, TargetFrame(opens=[opened], credit_nodes=100), 0))
    assert arrived.wait(PATIENCE_SECONDS)
    assert frames[0].growths[0].token_ids[0] == 13
    drafter.post(Stop())
    assert drafter.join(PATIENCE_SECONDS)
    assert ended.is_set()
    assert drafter.report.num_sessions == 0


@pytest.mark.parametrize("is_used", [False, True])
def test_without_lookup_a_session_neither_drafts_from_texts_nor_is_remembered(target, is_used):
    target.open(
        1, make_spec(TEXT, speculation=SpeculationOptions(lookup=is_used), tenant_salt=b"t")
    )
    target.grow()
    assert bool(target.best_path(1)) == is_used
    target.send(closes=(1,))
    target.grow()
    target.open(2, make_spec([1, 2, *TEXT[5:9]], tenant_salt=b"t"))
    target.grow()
    assert target.best_path(2)[:2] == ([TEXT[9], TEXT[10]] if is_used else [])
