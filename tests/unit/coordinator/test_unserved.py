"""Requests that found no target."""

import pytest
from tests.unit.coordinator.test_model_index import served

from treedraft.coordinator.unserved import UnservedModels
from treedraft.core.errors import InvalidRequestError, UnavailableError, UnknownModelError


def test_a_request_that_finds_a_target_is_not_counted():
    unserved = UnservedModels()
    assert unserved.find_targets("toy", [served("t1")])
    assert unserved.counts == {}


def test_without_any_target_every_request_counts():
    unserved = UnservedModels()
    for name in ("", "toy", "toy"):
        with pytest.raises(UnavailableError, match="no target"):
            unserved.find_targets(name, [])
    assert unserved.counts == {"": 1, "toy": 2}


def test_a_model_that_sleeps_is_asked_for_while_another_one_is_served():
    unserved = UnservedModels(sleeping=("big",))
    with pytest.raises(UnavailableError) as caught:
        unserved.find_targets("big", [served("t1")])
    assert caught.value.reason == "MODEL_ASLEEP"
    assert unserved.counts == {"big": 1}


def test_a_model_that_there_is_not_wakes_nobody():
    unserved = UnservedModels(sleeping=("big",))
    with pytest.raises(UnknownModelError):
        unserved.find_targets("bgi", [served("t1")])
    with pytest.raises(InvalidRequestError, match="name one"):
        unserved.find_targets("", [served("t1"), served("t2", "other")])
    assert unserved.counts == {}


def test_a_caller_cannot_fill_memory_with_names():
    unserved = UnservedModels()
    for number in range(1000):
        with pytest.raises(UnavailableError):
            unserved.find_targets(f"name-{number}", [])
    assert len(unserved.counts) <= 65
    assert sum(unserved.counts.values()) == 1000
