import json

import pytest
import torch
from torch import nn
from training_toys import toy_corpus, toy_target

from treedraft.core.errors import InvalidRequestError, UnsupportedModelError
from treedraft.inference.models import load_model
from treedraft.training.growth import pass_on, rows_for_new_ids, spread_into
from treedraft.training.initial import read_initial, student_columns, student_layers
from treedraft.training.recipe import TRAINING_FILE
from treedraft.training.teaching import causally_attending
from treedraft.training.train_settings import TrainSettings
from treedraft.training.trainer import TrainingRun, train
from treedraft.training.validation import validate

SETTINGS = TrainSettings(
    layers=2,
    vocab_size=200,
    epochs=6,
    batch_tokens=512,
    learning_rate=5e-3,
    validation_prompts=6,
    validation_seconds=1e9,
    checkpoint_seconds=1e9,
    log_steps=1000,
    layer_choice="ends",
)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return toy_target(tmp_path_factory.mktemp("target"), layers=5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, target):
    return toy_corpus(tmp_path_factory.mktemp("corpus"), target)


@pytest.fixture(scope="module")
def first(tmp_path_factory, target, corpus):
    folder = tmp_path_factory.mktemp("first")
    train(target, corpus, SETTINGS, folder / "work", folder / "out")
    return folder / "out"


def changed(first, **changes):
    return SETTINGS.model_copy(update={"init": str(first), "layer_choice": "even", **changes})


def run_of(target, corpus, settings, work):
    return TrainingRun(target, corpus, settings, work, lambda _: None, clock=lambda: 0.0)


def logits_of(run, documents):
    batch = run.teaching.look_at(documents)
    with torch.no_grad():
        return run.student(batch.tokens.tokens, use_cache=False).logits


def test_new_layers_halve_the_widest_gaps():
    assert spread_into((0, 10, 19, 29), 4, 30) == (0, 10, 19, 29)
    assert spread_into((0, 10, 19, 29), 5, 30) == (0, 10, 19, 24, 29)
    assert spread_into((0, 10, 19, 29), 6, 30) == (0, 5, 10, 19, 24, 29)
    assert spread_into((0, 1, 2), 4, 30) == (0, 1, 2, 16)
    assert spread_into((2,), 3, 3) == (0, 1, 2)


def test_more_layers_alone_change_no_logit_at_first(target, corpus, first, tmp_path):
    with causally_attending(target.module):
        old = run_of(target, corpus, changed(first), tmp_path / "old")
        new = run_of(target, corpus, changed(first, layers=4), tmp_path / "new")
        assert (old.layers, new.layers) == ((0, 4), (0, 2, 3, 4))
        documents = old.teaching.plan_epoch(0)[0]
        torch.testing.assert_close(logits_of(new, documents), logits_of(old, documents))


def test_a_new_layer_learns(target, corpus, first, tmp_path):
    with causally_attending(target.module):
        run = run_of(target, corpus, changed(first, layers=3), tmp_path)
        new = run.student.base_model.layers[1]
        before = {name: held.clone() for name, held in new.named_parameters()}
        run.train_to_the_end(max_steps=4)
        for name, held in new.named_parameters():
            assert not torch.equal(held, before[name]), name


def test_more_columns_keep_the_old_ones_and_seldom_win_at_first(target, corpus, first, tmp_path):
    with causally_attending(target.module):
        old = run_of(target, corpus, changed(first), tmp_path / "old")
        new = run_of(target, corpus, changed(first, vocab_size=330), tmp_path / "new")
        assert len(new.draft_token_ids) == 330
        assert set(old.draft_token_ids) < set(new.draft_token_ids)
        kept = [new.draft_token_ids.index(token_id) for token_id in old.draft_token_ids]
        documents = old.teaching.plan_epoch(0)[0]
        before, after = logits_of(old, documents), logits_of(new, documents)
        torch.testing.assert_close(after[..., kept], before)
        start = validate(old.trainer, old.teaching.validation)
        grown = validate(new.trainer, new.teaching.validation)
    assert new.coverage > old.coverage
    assert grown.top[0] > start.top[0] - 0.03


def test_a_grown_drafter_is_trained_and_says_what_it_came_from(target, corpus, first, tmp_path):
    settings = changed(first, layers=3, vocab_size=330)
    result = train(target, corpus, settings, tmp_path / "work", tmp_path / "out")
    assert result.layers == (0, 2, 4)
    loaded = load_model(tmp_path / "out")
    assert (loaded.num_layers, len(loaded.draft_token_ids)) == (3, 330)
    again = read_initial(str(tmp_path / "out"), target)
    assert again.layers == (0, 2, 4)
    (tmp_path / "out" / TRAINING_FILE).write_text(json.dumps({"layers": ["x"]}))
    assert read_initial(str(tmp_path / "out"), target).layers == (0, 2, 4)  # by the way of `even`


def test_layers_may_be_chosen_if_the_drafters_own_are_among_them(target, first):
    initial = read_initial(str(first), target)
    chosen = changed(first, layers=3, layer_choice="0,3,4")
    assert student_layers(initial, chosen, target) == (0, 3, 4)
    without = changed(first, layers=3, layer_choice="1,3,4")
    with pytest.raises(InvalidRequestError, match=r"layers 0,4") as caught:
        student_layers(initial, without, target)
    assert caught.value.reason == "INIT_MISMATCH"


def test_a_drafter_does_not_shrink(target, corpus, first):
    initial = read_initial(str(first), target)
    with pytest.raises(InvalidRequestError, match="2 layers") as caught:
        student_layers(initial, changed(first, layers=1), target)
    assert caught.value.reason == "INIT_LARGER"
    with pytest.raises(InvalidRequestError, match="200 columns") as caught:
        student_columns(initial, corpus, changed(first, vocab_size=199), target)
    assert caught.value.reason == "INIT_LARGER"


def test_without_numbers_a_drafter_keeps_its_size(target, corpus, first):
    initial = read_initial(str(first), target)
    settings = changed(first, layers=0, vocab_size=0)
    assert student_layers(initial, settings, target) == (0, 4)
    assert student_columns(initial, corpus, settings, target) == initial.draft_token_ids


def test_more_layers_than_the_target_has_are_refused(target, first):
    with pytest.raises(InvalidRequestError) as caught:
        student_layers(read_initial(str(first), target), changed(first, layers=6), target)
    assert caught.value.reason == "INVALID_LAYERS"


def test_rows_follow_the_map_that_the_known_ones_took():
    generator = torch.Generator().manual_seed(0)
    linear = torch.randn(8, 8, generator=generator)
    known, new = (torch.randn(n, 8, generator=generator) for n in (60, 5))
    found = rows_for_new_ids(known, known @ linear, new)
    torch.testing.assert_close(found, new @ linear, atol=2e-3, rtol=2e-3)


def test_fewer_known_rows_than_numbers_in_one_give_finite_rows():
    found = rows_for_new_ids(torch.randn(3, 8), torch.randn(3, 8), torch.randn(5, 8))
    assert torch.isfinite(found).all()


def test_a_layer_of_another_build_is_not_added():
    with pytest.raises(UnsupportedModelError) as caught:
        pass_on(nn.Linear(2, 2))
    assert caught.value.reason == "UNSUPPORTED_LAYER"
