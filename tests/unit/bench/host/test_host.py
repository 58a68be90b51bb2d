import cProfile
import json
from dataclasses import replace
from importlib.util import find_spec

import pytest

from treedraft.bench.host import engine
from treedraft.bench.host.drafter import StandInDrafter
from treedraft.bench.host.engine import TOO_FEW_STEPS, Drafts, run_sessions
from treedraft.bench.host.frames import BY_NAME, BY_NUMBER, measure_frames
from treedraft.bench.host.picture import draw
from treedraft.bench.host.profile import falls, kind_of
from treedraft.bench.host.result import HostPoint, markdown, to_json
from treedraft.bench.host.run import _measure_drafted, _pass_costs, run_host, specs_of
from treedraft.core import session as session_module
from treedraft.core.errors import UnavailableError
from treedraft.core.exchange import Commit, Rest, SessionOpen, TargetFrame
from treedraft.core.sampling import SamplingParameters, SpeculationOptions
from treedraft.core.session import DraftSpec, RoundTimes
from treedraft.core.token_tree import TokenTree
from treedraft.inference.models import load_model
from treedraft.inference.native import rows
from treedraft.inference.toy import make_toy_model
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.tracing import Tracing


@pytest.fixture
def tracing():
    tracing = Tracing("target", TelemetrySettings(sample_ratio=0.0))
    yield tracing
    tracing.shutdown()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = make_toy_model(tmp_path_factory.mktemp("toy"), seed=0)
    return load_model(str(folder), dtype="float32", device="cpu")


def test_the_share_of_the_host_is_what_a_step_takes_beside_its_pass():
    point = HostPoint(64, step_ms=6.0, toy_ms=1.0, parts=RoundTimes(), pass_ms=45.0)
    assert point.host_ms == 5.0
    assert point.share == pytest.approx(0.1)


def test_an_engine_around_a_toy_is_measured_and_pictured(tmp_path):
    folder = make_toy_model(tmp_path / "real", seed=1)
    result = run_host("a toy", folder, [1, 4], num_steps=8, num_nodes=4)
    assert [point.num_sessions for point in result.points] == [1, 4]
    assert all(point.step_ms > 0 and point.pass_ms > 0 for point in result.points)
    assert all(point.engine_ms > 0 and point.parts.forward > 0 for point in result.points)
    assert all(sum(p.falls.values()) == pytest.approx(p.thread_ms) for p in result.points)
    assert "laying rows out" in result.points[-1].falls
    assert "| 4 | " in markdown(result)
    assert [point.num_nodes for point in result.drafted] == [4, 4]
    assert "nodes each" in markdown(result)
    document = json.loads(to_json(result))
    assert len(document["points"]) == 2
    assert document["stamp"]["commit"]
    if find_spec("matplotlib"):
        assert "<svg" in draw(result, tmp_path / "host.svg").read_text()


def test_steps_with_drafts_hold_whole_trees_whose_best_path_comes_true(toy):
    costs = _pass_costs(toy, 64)
    point = _measure_drafted(toy, 3, 8, 6, costs)
    assert (point.num_sessions, point.num_nodes) == (3, 6)
    # Three nodes and the token after them; only where a text was foreseen to its end, fewer.
    assert point.num_tokens > 3.0
    assert point.parts.walk > 0
    assert "walk and commit" in point.falls
    assert _measure_drafted(toy, 130, 1, 6, costs).num_nodes == 1  # as many as a step may hold


def test_a_stand_in_drafter_sends_trees_of_one_size():
    drafter = StandInDrafter({"a": range(300)}, num_nodes=40, num_hits=3)
    opened = SessionOpen(
        7, DraftSpec("a", tuple(range(100)), 50, SamplingParameters(), SpeculationOptions())
    )
    first = drafter.answer(TargetFrame(opens=[opened])).growths[0]
    second = drafter.answer(TargetFrame(commits=[Commit(7, 100, (100, 101))]))
    assert [growth.base_length for growth in second.growths] == [102]
    assert second.rests == [Rest(7, 102)]
    for base, growth in ((100, first), (102, second.growths[0])):
        growth.check(512)
        tree = TokenTree(base, max_nodes=64)
        assert tree.graft(replace(growth, first_node_id=0), list(range(base))).num_dropped == 0
        assert tree.reroot([base, base + 1, base + 2, base + 3]).path == (0, 1, 2)
    assert second.growths[0].first_node_id == 40


def test_many_sessions_are_measured_by_few_steps_though_their_prompts_take_more(toy, tracing):
    # Of sessions with an end the first would be over before the last one's prompt is computed.
    steps = run_sessions(toy, specs_of(48), tracing, num_steps=2)
    assert steps.step_ms > 0


@pytest.mark.parametrize("number", [1, 5])
def test_messages_a_step_are_as_many_as_there_are_connections(toy, tracing, number):
    assert run_sessions(toy, specs_of(number), tracing, num_steps=6).num_messages == 1.0
    texts = run_sessions(toy, specs_of(number), tracing, num_steps=60).texts
    drafts = Drafts(texts, num_nodes=4, num_hits=2)
    found = run_sessions(toy, specs_of(number), tracing, num_steps=6, drafts=drafts)
    assert found.num_messages == 2.0  # to the coordinator and to the drafter


def test_too_few_steps_are_said_to_be_too_few(toy, tracing):
    with pytest.raises(UnavailableError, match="3 sessions") as caught:
        run_sessions(toy, specs_of(3), tracing, num_steps=8, limit_seconds=0.0)
    assert caught.value.reason == TOO_FEW_STEPS


def test_a_frame_by_number_is_smaller_than_one_by_name():
    by = {point.by: point for point in measure_frames(specs_of(16))}
    assert by[BY_NUMBER].num_bytes < by[BY_NAME].num_bytes / 3
    assert all(point.said_ms > 0 and point.understood_ms > 0 for point in by.values())


def test_what_a_module_does_is_known_by_its_file():
    assert kind_of(rows.__file__) == "laying rows out"
    assert kind_of(session_module.__file__) == "walk and commit"
    assert kind_of(engine.__file__) == "the rest"
    assert kind_of(json.__file__) == "the rest"


def test_time_of_built_in_functions_counts_for_the_module_that_called_them():
    profile = cProfile.Profile()
    profile.enable()
    rows.checked_slots([range(50_000)] * 8, 50_000)
    profile.disable()
    by_kind = falls(profile, 10.0)
    assert sum(by_kind.values()) == pytest.approx(10.0)
    assert max(by_kind, key=by_kind.get) == "laying rows out"
