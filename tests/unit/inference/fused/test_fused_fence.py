"""What a device may still read is not written over, whichever way the step before ended."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from tests.unit.inference.fused.fused_models import SCATTERED, fused_runner, small_model
from tests.unit.inference.level_steps import law
from tests.unit.inference.tiny_segments import chunk, tokens

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.fused import draw, level_board
from treedraft.inference.fused.draw import DeviceDraws
from treedraft.inference.fused.fence import Fence
from treedraft.inference.fused.levels import LevelGrower
from treedraft.inference.law import LawRow
from treedraft.inference.level_growth import Seed

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HOT = SamplingParameters(temperature=0.9, seed=5)


class BrokenOffError(Exception):
    """What a step ends by."""


class PlayedEvent:
    """An event of a device that never gets on by itself."""

    made: ClassVar[list["PlayedEvent"]] = []

    def __init__(self):
        self.calls = []
        self.made.append(self)

    def record(self):
        self.calls.append("record")

    def synchronize(self):
        self.calls.append("synchronize")


class PlayedFence:
    """Sees to it that memory is the same when it is waited for as when it was marked.

    Then it waits for the device as well, if there is one, as the code under test relies on that.
    """

    memory: ClassVar[list[np.ndarray]] = []

    def __init__(self, device):
        self.real = Fence(device)
        self.read = None
        self.num_waits = 0

    def mark(self):
        self.real.mark()
        self.read = [one.copy() for one in self.memory]

    def wait(self):
        if self.read is not None:
            for before, now in zip(self.read, self.memory, strict=True):
                np.testing.assert_array_equal(before, now)
            self.read, self.num_waits = None, self.num_waits + 1
        self.real.wait()


@pytest.fixture(autouse=True)
def nothing_played_before():
    PlayedEvent.made, PlayedFence.memory = [], []


def test_a_mark_is_waited_for_once_and_only_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", PlayedEvent)
    fence = Fence(torch.device("cuda"))
    fence.wait()
    fence.mark()
    fence.mark()
    fence.wait()
    fence.wait()
    assert PlayedEvent.made[0].calls == ["record", "record", "synchronize"]


def test_there_is_nothing_to_wait_for_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", PlayedEvent)
    fence = Fence(torch.device("cpu"))
    fence.mark()
    fence.wait()
    assert not PlayedEvent.made


def test_a_played_fence_waits_for_the_device_as_well(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", PlayedEvent)
    fence = PlayedFence(torch.device("cuda"))
    fence.mark()
    fence.wait()
    assert PlayedEvent.made[0].calls == ["record", "synchronize"]


def test_levels_that_broke_off_are_waited_for_before_the_next_are_told(monkeypatch):
    monkeypatch.setattr(level_board, "Fence", PlayedFence)
    model = small_model("llama")
    runner = fused_runner(model)
    decoder = runner.model.native
    grower = LevelGrower(decoder, runner.pool, column_ids=None, barren=(), score_temperature=1.0)

    def grow(text):
        length = len(text)
        home = SCATTERED[length : length + 2].tolist()
        segment = chunk(text, SCATTERED, 0, length, [length - 1])
        seed = Seed(segment, [0.0], law(HOT, length), home, 40, -50.0)
        return grower.grow([seed], levels=2, width=1, num_children=2, num_columns=model.vocab_size)

    expected = grow(tokens(4, seed=1)), grow(tokens(5, seed=2))
    (board,) = {id(one): one for one in grower._boards.values()}.values()
    PlayedFence.memory = list(board._given.host.values())
    replay = decoder.replay

    def broken(key, launch):
        replay(key, launch)
        raise BrokenOffError

    monkeypatch.setattr(decoder, "replay", broken)
    with pytest.raises(BrokenOffError):
        grow(tokens(4, seed=1))
    assert board._fence.read is not None
    monkeypatch.setattr(decoder, "replay", replay)
    waited = board._fence.num_waits
    assert grow(tokens(5, seed=2)) == expected[1]
    assert board._fence.num_waits == waited + 2  # for what broke off, and for its own


def test_draws_that_broke_off_are_waited_for_before_the_next_are_told(monkeypatch):
    monkeypatch.setattr(draw, "Fence", PlayedFence)
    draws = DeviceDraws()
    logits = torch.randn((2, 50), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    first, second = ([LawRow(HOT, position=at + i) for i in range(2)] for at in (3, 30))
    expected = draws.draw(logits, second)
    PlayedFence.memory = [draws._board._told]

    def broken():
        raise BrokenOffError

    with pytest.raises(BrokenOffError):
        draws.draw(logits, first, broken)
    assert draws.draw(logits, second) == expected
    assert draws._board._fence.num_waits == 3
