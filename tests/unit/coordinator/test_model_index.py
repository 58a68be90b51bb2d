import pytest
from tests.unit.coordinator.support import a_drafter, a_target, describe_toy, toy_tokenizer_json

from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.model_index import find_targets, served_models
from treedraft.coordinator.session_store.records import WorkerRecord
from treedraft.core.errors import InvalidRequestError, UnavailableError, UnknownModelError
from treedraft.core.generation import ServedModel
from treedraft.core.worker import WorkerReport
from treedraft.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_json(toy_tokenizer_json())


def served(worker_id, model="toy", *, is_draining=False, **description):
    worker = WorkerRecord(a_target(worker_id, model=model), WorkerReport(is_draining=is_draining))
    return worker, KnownModel(describe_toy(model=model, **description), TOKENIZER)


def found(name, *targets):
    return [worker.registration.worker_id for worker, _ in find_targets(name, targets)]


def test_models_are_found_by_name_and_the_only_one_without():
    assert found("toy", served("t1"), served("t2"), served("t3", "big")) == ["t1", "t2"]
    assert found("", served("t1"), served("t2")) == ["t1", "t2"]


def test_targets_that_read_prompts_otherwise_are_left_out():
    odd = served("t2", tokenizer_hash="other"), served("t3", chat_template="other")
    assert found("toy", served("t1"), *odd, served("t4")) == ["t1", "t4"]


def test_what_is_not_served_is_said_clearly():
    with pytest.raises(UnavailableError) as nothing:
        found("toy")
    assert nothing.value.reason == "NO_TARGET"
    with pytest.raises(UnknownModelError) as unknown:
        found("tiny", served("t1"))
    assert "toy" in unknown.value.message
    with pytest.raises(InvalidRequestError) as unnamed:
        found("", served("t1"), served("t2", "big"))
    assert unnamed.value.reason == "MODEL_REQUIRED"


def test_models_are_listed_with_those_who_serve_them():
    targets = [
        served("t1"),
        served("t2", context_length=256),
        served("t3", is_draining=True),
        served("t4", "big", tokenizer_hash="big-hash"),
    ]
    drafters = [
        WorkerRecord(a_drafter("d1"), WorkerReport()),
        WorkerRecord(a_drafter("d2", tokenizer_hash=""), WorkerReport()),
        WorkerRecord(a_drafter("d3"), WorkerReport(is_draining=True)),
    ]
    targets[3] = (
        WorkerRecord(a_target("t4", model="big", tokenizer_hash="big-hash"), WorkerReport()),
        targets[3][1],
    )
    assert served_models(targets, drafters) == [
        ServedModel("big", 128, 1, 1),
        ServedModel("toy", 256, 2, 2),
    ]
