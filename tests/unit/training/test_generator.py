import numpy as np
import pytest
import torch
from training_support import greedy_text, make_target

from treedraft.core.errors import InvalidRequestError
from treedraft.training.generation import GeneratorSettings, generator_factory
from treedraft.training.generator import Generator, Job


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def target(request, tmp_path_factory):
    return make_target(tmp_path_factory.mktemp("toy"), architecture=request.param)


def prompts_of(target, prefix, count):
    words = target.tokenizer.encode("The quick brown fox jumps over the lazy dog, and")
    return [prefix + words[i % 5 : i % 5 + i % 7] for i in range(count)]


@pytest.mark.parametrize("num_prefix", [0, 6])
def test_greedy_texts_are_those_of_transformers_whatever_shares_the_slots(target, num_prefix):
    prefix = target.tokenizer.encode("<|im_start|>user\nHello! How are you?")[:num_prefix]
    prompts = prompts_of(target, prefix or [5], 11)
    jobs = [Job(i, prompt, 0.0, 6 + i) for i, prompt in enumerate(prompts)]
    generator = Generator(target, num_slots=3, max_length=40, prefix_ids=prefix, window=2)

    texts = {text.job.number: text for text in generator.run(iter(jobs))}

    assert sorted(texts) == list(range(11))
    for job in jobs:
        expected = greedy_text(target, job.prompt_ids, job.max_new_tokens)
        assert texts[job.number].token_ids.tolist() == expected
        assert texts[job.number].is_complete == (expected[-1] in target.eos_token_ids)
    assert {text.is_complete for text in texts.values()} == {True, False}


def test_texts_are_cut_at_the_length_of_a_slot(target):
    jobs = [Job(0, [5, 6, 7], 0.0, 1000)]
    generator = Generator(target, num_slots=1, max_length=9)
    (text,) = generator.run(jobs)
    assert text.token_ids.tolist() == greedy_text(target, [5, 6, 7], 6)
    assert len(text.token_ids) <= 9


def test_draws_follow_the_law_at_each_slots_temperature(target):
    hot, cold = 1.0, 0.5
    jobs = [Job(i, [5, 9], hot if i % 2 else cold, 1) for i in range(3000)]
    generator = Generator(target, num_slots=50, max_length=16, window=1, seed=5)
    drawn = {hot: [], cold: []}
    for text in generator.run(jobs):
        drawn[text.job.temperature].append(int(text.new_ids[0]))
    with torch.no_grad():
        logits = target.module(input_ids=torch.tensor([[5, 9]])).logits[0, -1]
    for temperature, tokens in drawn.items():
        law = torch.softmax(logits / temperature, dim=0).numpy()
        seen = np.bincount(tokens, minlength=len(law)) / len(tokens)
        # Of 1500 draws; the other temperature's law is several times as far.
        assert np.abs(seen - law).sum() / 2 < 0.15
        other = torch.softmax(logits / (hot if temperature == cold else cold), dim=0).numpy()
        assert np.abs(seen - other).sum() / 2 > 0.2


def test_a_seed_gives_the_same_run_and_another_seed_another(target):
    def texts(seed):
        jobs = [Job(i, [5, 9], 1.0, 8) for i in range(6)]
        generator = Generator(target, num_slots=2, max_length=16, seed=seed)
        return [(t.job.number, t.token_ids.tolist()) for t in generator.run(jobs)]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_jobs_are_drawn_only_as_slots_become_free(target):
    started = []

    def jobs():
        for number in range(100):
            started.append(number)
            yield Job(number, [5], 0.0, 4)

    run = Generator(target, num_slots=2, max_length=16).run(jobs())
    next(run)
    run.close()
    assert len(started) <= 5


def test_the_module_has_its_own_attention_back_afterwards(target):
    list(Generator(target, num_slots=1, max_length=16).run([Job(0, [5], 0.0, 2)]))
    assert target.module.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("prompt", [[], [7, 8], [5] * 16])
def test_prompts_that_do_not_fit_are_refused(target, prompt):
    generator = Generator(target, num_slots=1, max_length=16, prefix_ids=[5])
    with pytest.raises(InvalidRequestError, match="does not fit"):
        list(generator.run([Job(0, prompt, 0.0, 4)]))


def test_lengths_that_the_model_has_not_are_refused(target):
    with pytest.raises(InvalidRequestError, match="context"):
        Generator(target, num_slots=1, max_length=target.context_length + 1)
    with pytest.raises(InvalidRequestError, match="common beginning"):
        Generator(target, num_slots=1, max_length=4, prefix_ids=[5, 6, 7])


def test_there_are_no_more_slots_than_jobs(target):
    make = generator_factory(target, GeneratorSettings(num_slots=8), print)
    assert make(num_jobs=3, max_length=16, prefix_ids=(), seed=0).num_slots == 3
    assert make(num_jobs=30, max_length=16, prefix_ids=(), seed=0).num_slots == 8
