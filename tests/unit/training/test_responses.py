import time

import pytest
from pydantic import ValidationError
from training_support import greedy_text, make_generator_of, make_target

from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import ChatMessage
from treedraft.training.corpus import Corpus, CorpusWriter
from treedraft.training.generator import Generator
from treedraft.training.prompt_store import TrainingPrompt
from treedraft.training.responses import (
    ResponseSettings,
    collect_responses,
    common_beginning,
    done_jobs,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return make_target(tmp_path_factory.mktemp("toy"))


def prompts(*texts):
    return [TrainingPrompt((ChatMessage("user", text),), "free") for text in texts]


def collect(target, asked, writer, done=frozenset(), *, clock=time.monotonic, **settings):
    return collect_responses(
        target,
        asked,
        ResponseSettings(max_length=64, **settings),
        writer,
        done,
        seed=1,
        make_generator=make_generator_of(target),
        progress=lambda _: None,
        clock=clock,
    )


ASKED = prompts(*(f"What is {i} and {i}?" for i in range(12)))


def test_every_prompt_is_answered_behind_the_template(target, tmp_path):
    result = collect(target, ASKED, CorpusWriter(tmp_path), per_prompt=3, max_new_tokens=8)
    corpus = Corpus.open(tmp_path)
    assert result["answers"] == corpus.num_documents
    assert result["response_tokens"] == corpus.num_response_tokens
    asked = [target.encode_chat(prompt.messages) for prompt in ASKED]
    greedy = dict.fromkeys(range(12), 0)
    for i in range(corpus.num_documents):
        document = corpus.document(i)
        prompt_ids = asked[document.job % 12]
        assert document.token_ids[: document.prompt_length].tolist() == prompt_ids
        assert 1 <= len(document.response_ids) <= 8
        if document.temperature == 0:
            greedy[document.job % 12] += 1
            assert document.token_ids.tolist() == greedy_text(target, prompt_ids, 8)
    # Once at most, since a second greedy answer would be the same.
    assert set(greedy.values()) == {0, 1}
    assert len(set(corpus.jobs.tolist())) == corpus.num_documents > 24


def test_a_run_that_was_broken_off_does_what_is_missing(target, tmp_path):
    whole = CorpusWriter(tmp_path / "whole")
    collect(target, ASKED, whole, max_new_tokens=3)
    jobs = done_jobs(Corpus.open(tmp_path / "whole"))
    done = frozenset(sorted(jobs)[:7])
    rest = CorpusWriter(tmp_path / "rest")
    result = collect(target, ASKED, rest, done, max_new_tokens=3)
    assert result["answers"] == len(jobs) - 7
    assert done_jobs(Corpus.open(tmp_path / "rest")) == jobs - done
    assert collect(target, ASKED, rest, jobs, max_new_tokens=3)["answers"] == 0


def test_answers_go_to_disk_every_minute(target, tmp_path):
    clock = iter(range(0, 100_000, 25))  # three times round are a minute
    writer = CorpusWriter(tmp_path)
    collect(target, ASKED[:6], writer, clock=lambda: next(clock), per_prompt=1, max_new_tokens=2)
    assert Corpus.open(tmp_path).num_documents == 6
    assert 2 <= writer.num_parts <= 5


def test_answers_stay_when_it_is_broken_off(target, tmp_path, monkeypatch):
    run = Generator.run

    def run_and_break(self, jobs):
        for number, finished in enumerate(run(self, jobs)):
            if number == 5:
                raise KeyboardInterrupt
            yield finished

    monkeypatch.setattr(Generator, "run", run_and_break)
    with pytest.raises(KeyboardInterrupt):
        collect(target, ASKED, CorpusWriter(tmp_path), max_new_tokens=2)
    assert Corpus.open(tmp_path).num_documents == 5


def test_prompts_that_are_too_long_are_left_out(target, tmp_path):
    asked = [*ASKED[:2], *prompts("word " * 200)]
    result = collect(target, asked, CorpusWriter(tmp_path), per_prompt=1, max_new_tokens=3)
    assert (result["answers"], result["too_long"]) == (2, 1)
    with pytest.raises(InvalidRequestError) as caught:
        collect(target, asked[2:], CorpusWriter(tmp_path))
    assert caught.value.reason == "NO_PROMPTS"


@pytest.mark.parametrize(
    ("token_ids", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], [1, 2]),
        ([[1, 2], [1, 2, 4]], [1]),  # one token of each prompt is always its own
        ([[1, 2, 3], [1, 2, 3]], [1, 2]),
        ([[1], [2]], []),
    ],
)
def test_the_common_beginning_leaves_each_prompt_a_token(token_ids, expected):
    assert common_beginning(token_ids) == expected


@pytest.mark.parametrize("shares", [{0.0: 0.5}, {0.0: 1.5, 1.0: -0.5}, {-1.0: 1.0}])
def test_shares_of_temperatures_are_a_law(shares):
    with pytest.raises(ValidationError, match="add up to 1"):
        ResponseSettings(temperatures=shares)


def test_no_answer_is_begun_after_the_time_is_up(target, tmp_path):
    clock = iter(range(100_000))
    writer = CorpusWriter(tmp_path)
    result = collect(
        target, ASKED, writer, clock=lambda: next(clock), max_new_tokens=3, max_seconds=15
    )
    assert 4 <= result["answers"] < 20  # four slots were given out at the start
    assert Corpus.open(tmp_path).num_documents == result["answers"]
