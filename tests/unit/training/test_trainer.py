import json

import pytest
import torch
from safetensors.torch import load_file
from training_toys import toy_corpus, toy_target

from treedraft.core.errors import InvalidRequestError, TreedraftError
from treedraft.inference.drafter_folder import WEIGHTS_FILE
from treedraft.inference.models import load_model
from treedraft.training.checkpoint import CHECKPOINT_FILE
from treedraft.training.optimisation import learning_rate_factor
from treedraft.training.recipe import TRAINING_FILE
from treedraft.training.student_trainer import _MAX_BAD_STEPS
from treedraft.training.teacher import TeacherCache, summarise
from treedraft.training.teaching import causally_attending
from treedraft.training.train_settings import PACE_SETTINGS, LossSettings, TrainSettings
from treedraft.training.trainer import TrainingRun, train
from treedraft.training.validation import _tokens_per_pass, validate

SETTINGS = TrainSettings(
    layers=2,
    vocab_size=300,
    epochs=8,
    batch_tokens=512,
    chunk_rows=70,
    learning_rate=5e-3,
    validation_prompts=6,
    validation_seconds=1e9,
    checkpoint_seconds=1e9,
    log_steps=1000,
    loss=LossSettings(acceptance=0.4, hard=0.1, hidden=0.1, survival_share=0.5),
)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return toy_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, target):
    return toy_corpus(tmp_path_factory.mktemp("corpus"), target)


def _run(target, corpus, work, **changes):
    work.mkdir(exist_ok=True)
    settings = SETTINGS.model_copy(update=changes)
    return TrainingRun(target, corpus, settings, work, lambda _text: None, clock=lambda: 0.0)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_student_learns_and_its_drafter_can_be_loaded(target, corpus, tmp_path, optimiser):
    settings = SETTINGS.model_copy(update={"optimiser": optimiser, "ema_decay": 0.9})
    with causally_attending(target.module):
        before = _run(target, corpus, tmp_path / "untrained")
        untrained = validate(before.trainer, before.teaching.validation)
    result = train(target, corpus, settings, tmp_path / "work", tmp_path / "out")
    assert result.validation.overlap > untrained.overlap + 0.03
    assert result.validation.top[-1] > untrained.top[-1]
    assert result.draft_vocab_size == 300
    loaded = load_model(tmp_path / "out")
    assert loaded.num_layers == 2
    assert len(loaded.draft_token_ids) == 300
    history = json.loads((tmp_path / "work" / "history.json").read_text())
    assert history[-1]["tokens"] == result.num_tokens
    json.dumps(result.to_json())


def test_the_loss_falls(target, corpus, tmp_path):
    with causally_attending(target.module):
        run = _run(target, corpus, tmp_path, loss=LossSettings(acceptance=0.0))
        run.train_to_the_end(max_steps=2)
        first = run.trainer.report().loss
        run.train_to_the_end(max_steps=14)
        run.trainer.report()
        run.train_to_the_end(max_steps=2)
        assert run.trainer.report().loss < 0.8 * first


def test_a_resumed_run_ends_as_an_uninterrupted_one(target, corpus, tmp_path):
    with causally_attending(target.module):
        whole = _run(target, corpus, tmp_path / "whole", ema_decay=0.9)
        whole.train_to_the_end()
        broken = _run(target, corpus, tmp_path / "broken", ema_decay=0.9)
        broken.train_to_the_end(max_steps=5)
        broken.save()
        resumed = _run(target, corpus, tmp_path / "broken", ema_decay=0.9)
        assert resumed.go_on()
        assert resumed.num_steps == 5
        resumed.train_to_the_end()
    assert resumed.num_steps == whole.num_steps
    expected, found = whole.trainer.state_dict(), resumed.trainer.state_dict()
    for group in ("weights", "average"):
        for name, weight in expected[group].items():
            assert torch.equal(weight, found[group][name]), name


def test_checkpoints_of_another_training_or_broken_ones_are_not_gone_on_with(
    target, corpus, tmp_path
):
    with causally_attending(target.module):
        run = _run(target, corpus, tmp_path)
        run.train_to_the_end(max_steps=1)
        run.save()
        assert not _run(target, corpus, tmp_path, learning_rate=1e-4).go_on()
        assert _run(target, corpus, tmp_path, log_steps=7).go_on()
        (tmp_path / CHECKPOINT_FILE).write_bytes(b"nothing")
        assert not _run(target, corpus, tmp_path).go_on()


def test_a_finished_training_that_was_not_noted_takes_no_step_again(target, corpus, tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 1})
    first = train(target, corpus, settings, tmp_path / "work", tmp_path / "out")
    written = (tmp_path / "out" / WEIGHTS_FILE).read_bytes()
    said = []
    again = train(target, corpus, settings, tmp_path / "work", tmp_path / "out", said.append)
    assert f"going on at step {first.num_steps}, 100% done" in said
    assert (again.num_steps, again.validation) == (first.num_steps, first.validation)
    assert (tmp_path / "out" / WEIGHTS_FILE).read_bytes() == written


@pytest.mark.parametrize("storage", ["int8", "bfloat16"])
def test_what_is_reported_in_the_end_is_the_drafter_as_it_is_stored(
    target, corpus, tmp_path, storage
):
    settings = SETTINGS.model_copy(update={"epochs": 2, "storage": storage})
    result = train(target, corpus, settings, tmp_path / "work", tmp_path / "out")
    on = settings.model_copy(update={"init": str(tmp_path / "out"), "epochs": 1})
    with causally_attending(target.module):
        read = TrainingRun(target, corpus, on, tmp_path / "again", lambda _: None)
        assert validate(read.trainer, read.teaching.validation) == result.validation
    stored = load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert ("lm_head.int8" in stored) == (storage == "int8")


def test_a_run_that_was_broken_off_may_be_given_another_length(target, corpus, tmp_path):
    with causally_attending(target.module):
        run = _run(target, corpus, tmp_path)
        run.train_to_the_end(max_steps=1)
        run.save()
        for changes in ({"max_seconds": 5.0}, {"epochs": 2.0}):
            assert set(changes) <= PACE_SETTINGS
            assert _run(target, corpus, tmp_path, **changes).go_on()


def test_a_run_ends_when_its_time_is_up(target, corpus, tmp_path):
    ticks = iter(range(10_000))
    settings = SETTINGS.model_copy(update={"max_seconds": 40.0, "epochs": 1000})
    result = train(
        target, corpus, settings, tmp_path / "w", tmp_path / "o", clock=lambda: float(next(ticks))
    )
    assert 0 < result.num_steps < 40


def test_gradients_that_are_not_finite_move_nothing_and_too_many_end_the_run(
    target, corpus, tmp_path
):
    with causally_attending(target.module):
        run = _run(target, corpus, tmp_path)
        batch = run.teaching.look_at(run.teaching.plan_epoch(0)[0])
        batch.target.hidden[:1] = float("nan")
        before = {n: w.clone() for n, w in run.trainer.state_dict()["weights"].items()}
        run.trainer.step(batch, 0.0)
        for name, weight in run.trainer.state_dict()["weights"].items():
            torch.testing.assert_close(weight, before[name], atol=1e-5, rtol=0)
        run.trainer.report()
        for _ in range(_MAX_BAD_STEPS):
            run.trainer.step(batch, 0.0)
        with pytest.raises(TreedraftError) as caught:
            run.trainer.report()
        assert caught.value.reason == "TRAINING_DIVERGED"


def test_chunks_do_not_change_a_step(target, corpus, tmp_path):
    weights = []
    with causally_attending(target.module):
        for chunk_rows in (17, 10_000):
            run = _run(
                target, corpus, tmp_path, chunk_rows=chunk_rows, loss=LossSettings(hidden=0.5)
            )
            run.train_to_the_end(max_steps=2)
            weights.append(run.trainer.state_dict()["weights"])
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=2e-4, rtol=1e-3)


def test_the_cache_says_what_the_teacher_said(target, corpus, tmp_path):
    with causally_attending(target.module):
        teaching = _run(target, corpus, tmp_path).teaching
        documents = teaching.plan_epoch(0)[0]
        fresh = teaching.look_at(documents)
        cache = TeacherCache(
            corpus.num_response_tokens, corpus.num_documents, 32, torch.float32, target.device
        )
        assert cache.get(fresh.tokens) is None
        cache.put(fresh.tokens, fresh.target)
        again = cache.get(teaching.look_at(documents[::-1]).tokens)
        assert again is not None
        assert cache.get(teaching.look_at(teaching.plan_epoch(0)[1]).tokens) is None
    other = teaching.look_at(documents[::-1])
    torch.testing.assert_close(again.hidden, other.target.hidden, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.tempered_log_totals, other.target.tempered_log_totals)
    assert torch.equal(again.best_ids, other.target.best_ids)


def test_summaries_are_log_sum_exp_at_both_temperatures():
    logits = 30 * torch.randn(5, 40)
    temperatures = torch.tensor([0.02, 0.5, 0.7, 1.0, 2.0])
    totals, tempered, best = summarise(logits, temperatures)
    torch.testing.assert_close(totals, logits.logsumexp(-1))
    torch.testing.assert_close(tempered, (logits / temperatures[:, None]).logsumexp(-1))
    assert torch.equal(best, logits.argmax(-1))


def test_learning_rate_rises_and_falls():
    settings = TrainSettings(warm_up_share=0.1, final_share=0.05)
    factors = [learning_rate_factor(share, settings) for share in (0.05, 0.1, 1.0)]
    assert factors == pytest.approx([0.5, 1.0, 0.05])
    assert learning_rate_factor(0.55, settings) == pytest.approx((1.0 + 0.05) / 2)  # half way down
    curve = [learning_rate_factor(i / 100, settings) for i in range(1, 101)]
    assert curve[:10] == sorted(set(curve[:10]))
    assert curve[9:] == sorted(set(curve[9:]), reverse=True)


@pytest.mark.parametrize(
    ("hits", "expected"),
    [("0000", 1.0), ("1111", 4.0), ("1101", 2.0), ("1011", 2.0)],
)
def test_tokens_per_pass_walks_along_the_text(hits, expected):
    is_hit = torch.tensor([h == "1" for h in hits]).numpy()
    is_first = torch.tensor([True, *[False] * (len(hits) - 1)]).numpy()
    assert _tokens_per_pass(is_hit, is_first) == pytest.approx(expected)


def test_training_goes_on_from_another_drafter_with_its_columns(target, corpus, tmp_path):
    first = train(target, corpus, SETTINGS, tmp_path / "work", tmp_path / "first")
    settings = SETTINGS.model_copy(update={"init": str(tmp_path / "first"), "vocab_size": 0})
    with causally_attending(target.module):
        begun = TrainingRun(target, corpus, settings, tmp_path / "w2", lambda _: None)
        start = validate(begun.trainer, begun.teaching.validation)
    assert start.overlap == pytest.approx(first.validation.overlap, abs=0.02)
    second = train(target, corpus, settings, tmp_path / "work-2", tmp_path / "second")
    assert second.draft_vocab_size == 300
    assert second.init == str(tmp_path / "first")
    assert second.num_answer_tokens == corpus.num_response_tokens
    assert json.loads((tmp_path / "second" / TRAINING_FILE).read_text())["num_tokens"] > 0
    columns = [load_model(tmp_path / name).draft_token_ids for name in ("first", "second")]
    assert columns[0] == columns[1]


def test_a_drafter_that_does_not_fit_is_not_begun_from(target, corpus, tmp_path):
    train(
        target, corpus, SETTINGS.model_copy(update={"epochs": 0.2}), tmp_path / "w", tmp_path / "a"
    )
    other = toy_target(tmp_path / "other-target", layers=2)
    with torch.no_grad():
        other.module.get_input_embeddings().weight.add_(0.1)
    with pytest.raises(InvalidRequestError, match="input embedding") as caught:
        train(
            other,
            corpus,
            SETTINGS.model_copy(update={"init": str(tmp_path / "a")}),
            tmp_path / "w3",
            tmp_path / "c",
        )
    assert caught.value.reason == "INIT_MISMATCH"
    nowhere = SETTINGS.model_copy(update={"init": str(tmp_path / "nowhere")})
    with pytest.raises(InvalidRequestError) as caught:
        train(target, corpus, nowhere, tmp_path / "w4", tmp_path / "d")
    assert caught.value.reason == "INIT_NOT_FOUND"
