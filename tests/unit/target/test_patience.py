"""When a step waits for drafts: as long as the next frame is worth its time."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from treedraft.core.growth import ROOT, TokenSource
from treedraft.core.sampling import SpeculationOptions
from treedraft.core.token_tree import TokenTree
from treedraft.target.budget import SurvivalCalibrator
from treedraft.target.outlook import Goodput, Outlook
from treedraft.target.patience import DraftingSession, Patience
from treedraft.target.settings import PatienceSettings
from treedraft.target.step_costs import StepCosts

MODEL = TokenSource.DRAFT_MODEL
PASS_MS = 40.0


@dataclass(eq=False)
class Session:
    """As much of a session as patience looks at."""

    tree: TokenTree = field(default_factory=lambda: TokenTree(5))
    is_resting: bool = False
    stop_checker: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(tokens_left=99))
    spec: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(speculation=SpeculationOptions())
    )

    def add_chain(self, *probabilities):
        parent, score = ROOT, 0.0
        for probability in probabilities:
            score += math.log(probability)
            parent = self.tree.add(parent, self.tree.next_node_id, score, MODEL)


class World:
    """A clock, a drafter that answers after a while, and an engine that takes steps."""

    def __init__(self, *, gap_ms=5.0, probability=0.8, **settings):
        self.now_ms = 1000.0
        self.gap_ms = gap_ms
        self.probability = probability
        self.answers = True
        self.held_ms = None
        costs = self.costs = StepCosts()
        for rows in (1, 2, 4, 8, 16):
            costs.observe(rows, PASS_MS)
        self.patience = Patience(
            PatienceSettings(**settings),
            costs,
            SurvivalCalibrator(),
            max_nodes=32,
            max_depth=16,
            clock_ns=lambda: int(self.now_ms * 1e6),
        )
        self.waited_ms = []

    def step(self, *, num_others=0, max_frames=99):
        """Take one step with one drafted session; return the frames that it waited for."""
        session = Session()
        drafted = DraftingSession(session, "d")
        others = [DraftingSession(Session(), None) for _ in range(num_others)]
        self.patience.commits_announced(["d"])
        started, num_frames = self.now_ms, 0
        self.patience.begin_step([drafted, *others])
        while (until_ns := self.patience.wait_until_ns(1 + num_others)) is not None:
            due = self.now_ms + self.gap_ms
            if not self.answers or due > until_ns / 1e6:
                self.now_ms = until_ns / 1e6
                self.patience.time_is_up()
                break
            self.now_ms = due
            num_frames += 1
            session.tree = TokenTree(5)
            session.add_chain(*[self.probability] * num_frames)
            session.is_resting = num_frames >= max_frames
            self.patience.frame_taken("d", int(self.now_ms * 1e6), held_ms=self.held_ms)
        self.patience.end_wait()
        self.waited_ms.append(self.now_ms - started)
        self.now_ms += PASS_MS
        emitted = 1 + num_others + sum(self.probability**n for n in range(1, num_frames + 1))
        self.patience.goodput.step_finished(emitted, int(self.now_ms * 1e6), counts=True)
        return num_frames

    def steps(self, count, **options):
        return [self.step(**options) for _ in range(count)]


def test_quick_likely_drafts_are_waited_for_until_the_next_level_does_not_pay():
    frames = World(gap_ms=5.0, probability=0.8).steps(100)[-1]
    # What the best fixed number of levels would be, by the plain formula.
    goodput = [sum(0.8**n for n in range(k + 1)) / (PASS_MS + 5.0 * k) for k in range(9)]
    assert abs(frames - goodput.index(max(goodput))) <= 1


def test_unlikely_drafts_are_not_waited_for_long():
    assert World(gap_ms=5.0, probability=0.1).steps(300)[-1] <= 1


def test_slow_drafts_are_not_waited_for():
    world = World(gap_ms=60.0, probability=0.8)
    world.steps(400)
    assert sum(world.waited_ms[200:]) < 0.02 * 200 * PASS_MS


def test_a_drafter_that_hangs_costs_next_to_nothing():
    world = World()
    world.steps(50)
    world.answers = False
    world.waited_ms.clear()
    world.steps(400)
    assert sum(world.waited_ms) < 0.015 * 400 * PASS_MS


def test_a_drafter_that_comes_back_is_waited_for_again():
    world = World()
    before = world.steps(50)[-1]
    world.answers = False
    world.steps(200)
    world.answers = True
    # It answers while the target computes, which is how the target knows.
    world.patience.frame_taken("d", int(world.now_ms * 1e6))
    assert world.steps(30)[-1] >= before - 1


def test_nobody_waits_for_a_drafter_that_rests():
    world = World()
    assert world.steps(50, max_frames=2)[-1] == 2
    assert world.waited_ms[-1] == pytest.approx(10.0)


def test_a_drafter_that_takes_turns_is_waited_for_until_it_rests():
    assert World(probability=0.3).steps(60, max_frames=6)[-1] < 6
    world = World(probability=0.3, takes_turns=True)
    assert set(world.steps(60, max_frames=6)) == {6}
    assert world.waited_ms[-1] <= 6 * world.gap_ms + 1e-6


def test_a_drafter_that_takes_turns_and_hangs_costs_next_to_nothing():
    world = World(takes_turns=True)
    world.steps(50, max_frames=2)
    world.answers = False
    world.waited_ms.clear()
    world.steps(400)
    assert sum(world.waited_ms) < 0.015 * 400 * PASS_MS


def test_drafters_are_told_what_a_token_and_a_row_take():
    world = World(probability=0.0, enabled=False)
    assert world.patience.economics().token_us == 0
    world.steps(30)
    assert world.patience.economics().token_us == pytest.approx(1e3 * PASS_MS, rel=0.01)
    assert world.patience.economics().row_us == 0  # all sizes take the same
    for _ in range(300):
        for rows in (1, 2, 4, 8, 16):
            world.costs.observe(rows, PASS_MS + rows)
    world.steps(30)
    assert world.patience.economics().row_us == pytest.approx(1e3, rel=0.2)


def test_the_prompt_of_a_new_session_teaches_nothing_about_answers():
    world = World()
    before = world.steps(50)[-1]
    for _ in range(20):
        world.patience.commits_announced(["d"], opened=["d"])
        world.now_ms += 20 * world.gap_ms
        world.patience.frame_taken("d", int(world.now_ms * 1e6))
    assert world.step() == before


def test_frames_that_come_unevenly_are_not_given_up_too_soon():
    world = World(probability=0.9)
    for _ in range(25):
        for world.gap_ms in (2.0, 2.0, 2.0, 8.0):
            world.step(max_frames=1)
    world.gap_ms = 8.0  # four times the usual
    assert world.step(max_frames=1) == 1


def test_many_sessions_without_drafters_do_not_wait_for_one_with():
    world = World()
    world.steps(50)
    assert world.steps(100, num_others=31)[-1] == 0


def test_no_wait_is_longer_than_its_share_of_a_pass():
    world = World(gap_ms=5.0, probability=0.98, max_pass_share=0.3)
    world.steps(100)
    assert max(world.waited_ms) <= 0.3 * PASS_MS + 1e-6


def test_patience_can_be_turned_off():
    world = World(enabled=False)
    assert set(world.steps(20)) == {0}


def test_a_lost_drafter_is_forgotten():
    world = World()
    world.steps(20)
    session = Session()
    world.patience.commits_announced(["d"])
    world.patience.link_down("d")
    world.patience.begin_step([DraftingSession(session, "d")])
    assert world.patience.wait_until_ns(1) is None


def test_the_outlook_of_a_tree_counts_what_a_pass_can_hold():
    session = Session()
    session.add_chain(0.8, 0.8, 0.8)
    look = {"calibrator": SurvivalCalibrator(), "max_nodes": 32, "max_depth": 16}
    assert Outlook.of(TokenTree(5), **look) == Outlook(0.0, 1.0)
    everything = Outlook.of(session.tree, **look)
    assert everything.value == pytest.approx(0.8 + 0.64 + 0.512, rel=0.01)
    assert everything.promise == pytest.approx(0.512, rel=0.01)
    shallow = Outlook.of(session.tree, **{**look, "max_depth": 1})
    assert shallow.value == pytest.approx(0.8, rel=0.01)
    few = Outlook.of(session.tree, **{**look, "max_nodes": 2})
    assert few.value == pytest.approx(1.44, rel=0.01)
    priced = Outlook.of(session.tree, **look, price=0.6)
    assert priced.value == pytest.approx(0.24, rel=0.02)


@pytest.mark.parametrize("limit", ["tokens_left", "max_nodes", "max_depth"])
def test_drafts_that_no_pass_could_hold_are_not_waited_for(limit):
    session = Session()
    if limit == "tokens_left":
        session.stop_checker.tokens_left = 1
    else:
        session.spec.speculation = SpeculationOptions(**{limit: 0})
    world = World()
    patience = world.patience
    patience.commits_announced(["d"])
    patience.begin_step([DraftingSession(session, "d")])
    assert patience.wait_until_ns(1) is None
    patience.end_wait()
    patience.begin_step([DraftingSession(Session(), "d")])
    assert patience.wait_until_ns(1) is not None


def test_goodput_of_many_sessions_says_nothing_about_the_one_that_is_left():
    goodput, now_ns = Goodput(), 0
    goodput.begin(8, 32.0)
    for _ in range(100):
        now_ns += 32_000_000
        goodput.step_finished(8, now_ns, counts=True)
    assert goodput.token_us == pytest.approx(4_000, rel=0.01)
    goodput.begin(1, 20.0)
    assert goodput.token_us == pytest.approx(20_000, rel=0.01)
    for _ in range(60):
        now_ns += 30_000_000
        goodput.step_finished(2, now_ns, counts=True)
    assert goodput.token_us == pytest.approx(15_000, rel=0.05)
    goodput.begin(7, 99.0)
    assert goodput.token_us == pytest.approx(4_000, rel=0.01)


def test_goodput_leaves_idle_time_and_prompts_out():
    goodput = Goodput()
    assert goodput.token_us == 0
    goodput.step_finished(1, 0, counts=True)  # starts the clock
    goodput.step_finished(2, 40_000_000, counts=True)
    assert goodput.token_us == 20_000
    goodput.step_finished(1, 900_000_000, counts=False)  # a prompt
    goodput.pause()
    goodput.step_finished(2, 5_000_000_000, counts=True)
    goodput.step_finished(2, 5_040_000_000, counts=True)
    assert goodput.token_us == 20_000


def test_the_synchronous_exchange_waits_for_all_of_a_tree_however_long_it_takes():
    world = World(gap_ms=300.0, probability=0.1, is_synchronous=True)
    assert set(world.steps(5, max_frames=3)) == {3}
    assert world.patience.economics().token_us == 0
    world.answers = False
    assert world.step() == 0  # and not for ever


def test_the_synchronous_exchange_does_not_wait_for_a_drafter_that_is_lost():
    world = World(is_synchronous=True)
    world.steps(3, max_frames=1)
    world.patience.begin_step([DraftingSession(Session(), "d")])
    world.patience.link_down("d")
    assert world.patience.wait_until_ns(1) is None


def test_the_way_to_a_drafter_that_takes_turns_is_no_gain():
    world = World(gap_ms=10.0, probability=0.1, takes_turns=True)
    world.held_ms = 9.0  # computing, on our cores
    assert set(world.steps(200, max_frames=1)) == {1}
    world = World(gap_ms=10.0, probability=0.1, takes_turns=True)
    world.held_ms = 0.5  # nearly all of it on the way
    assert sum(world.steps(300, max_frames=1)[200:]) < 15


def test_a_far_drafter_with_cores_of_its_own_is_not_waited_for():
    world = World(gap_ms=10.0, probability=0.8)
    world.patience.link_measured("d", 30.0)
    world.steps(50)
    assert sum(world.waited_ms) == 0.0
    world = World(gap_ms=10.0, probability=0.8, takes_turns=True)
    world.patience.link_measured("d", 5.0)
    assert min(world.steps(50)[10:]) >= 1
