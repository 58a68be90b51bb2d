from dataclasses import dataclass

import numpy as np
import pytest
from training_support import make_target

from treedraft.training.excerpts import cut_excerpts, with_bug, with_mistakes
from treedraft.training.generator import FinishedText
from treedraft.training.pasted_prompts import paste_prompts
from treedraft.training.prompt_collection import PromptCollection
from treedraft.training.prompt_filter import PromptFilter
from treedraft.training.prompt_grammar import prompt_grammar
from treedraft.training.prompt_settings import PromptSettings
from treedraft.training.prompt_store import PromptStore

SENTENCES = [f"This is sentence number {i}, and it is about the {i}th owl." for i in range(30)]
PROSE = " ".join(SENTENCES)
CODE = """```python
def f(x):
    if x == 1 and x < 3:
        return [x + 1 for _ in range(9)]
    return []
```"""
LIST = "\n".join(f"{i}. The {i}th thing to pack is a warm coat." for i in range(1, 9))
TALK = "\n".join(f"{name}: I said that owls are not birds." for name in ("Ann", "Bob", "Ann"))


def words(text):
    return len(text.split())


def cut(text, category="prose", max_tokens=60):
    found = cut_excerpts(text, category, max_tokens, words, np.random.default_rng(0))
    return {excerpt.kind: excerpt.text for excerpt in found}


def test_paragraphs_are_cut_at_ends_of_sentences():
    pieces = cut(f"{PROSE}\n\nToo short.")
    assert set(pieces) == {"prose", "sentence", "mistakes"}
    assert pieces["prose"] == " ".join(SENTENCES[:5])
    assert pieces["sentence"] in SENTENCES


def test_what_was_cut_off_in_the_middle_is_left_out():
    assert cut(f"{SENTENCES[0]} {SENTENCES[1]} And then the", max_tokens=200)["prose"] == (
        f"{SENTENCES[0]} {SENTENCES[1]}"
    )
    assert cut("No end of this sentence is anywhere in sight") == {}


def test_code_lists_dialogues_and_letters_are_told_apart():
    text = f"Here you are:\n\n{CODE}\n\n{LIST}\n\n{TALK}"
    pieces = cut(text, max_tokens=200)
    assert set(pieces) == {"bugs", "code", "dialogue", "list"}
    assert "def f(x):" in pieces["code"]
    assert pieces["list"] == LIST
    assert pieces["dialogue"] == TALK
    assert list(cut(f"Dear Ann,\n\n{PROSE}\n\nBob", "letters", 500)) == ["letter"]


def test_lists_are_cut_at_whole_rows():
    assert cut(LIST, max_tokens=40)["list"].split("\n") == LIST.split("\n")[:4]


@pytest.mark.parametrize("seed", range(12))
def test_mistakes_are_few(seed):
    random = np.random.default_rng(seed)
    wrong = with_mistakes(SENTENCES[0], random)
    assert abs(len(wrong) - len(SENTENCES[0])) < 15
    code = "for i in range(n):\n    total += a[0] + 1"
    assert with_bug(code, random) != code
    assert with_bug("x", random) == "x"


@dataclass
class Scripted:
    """A generator that gives the same answers to whatever is asked."""

    target: object
    answers: list[str]
    num_jobs: int = 0

    def __call__(self, *, num_jobs, max_length, prefix_ids, seed):
        return self

    def run(self, jobs):
        for job in jobs:
            answer = self.answers[self.num_jobs % len(self.answers)]
            answer = answer.replace("owl", f"owl of flock {self.num_jobs}")
            self.num_jobs += 1
            ids = self.target.tokenizer.encode(answer)[: job.max_new_tokens]
            yield FinishedText(job, np.array([*job.prompt_ids, *ids], np.int32), False)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return make_target(tmp_path_factory.mktemp("toy"))


def paste(target, folder, generator, count):
    settings = PromptSettings(
        count=count,
        max_tokens=400,  # a toy has a token for each byte
        shares={"complete": 0, "free": 0, "opening": 0, "pasted": 1},
    )
    store = PromptStore(folder)
    collection = PromptCollection(store, PromptFilter([]), settings, lambda _: None)
    texts = PromptStore(folder / "texts")
    paste_prompts(target, collection, texts, prompt_grammar(), (1, 0), generator)
    store.flush_part()
    return store.read(), texts.read()


def test_instructions_are_put_before_pieces_of_the_targets_own_text(target, tmp_path, monkeypatch):
    monkeypatch.setattr("treedraft.training.pasted_prompts._MAX_REQUEST_TOKENS", 400)
    generator = Scripted(target, [PROSE[:300], CODE, LIST[:300]])
    prompts, texts = paste(target, tmp_path / "one", generator, 24)
    assert len(prompts) == len({prompt.text for prompt in prompts}) == 24
    assert {prompt.kind for prompt in prompts} == {"pasted"}
    assert any("def f(x)" in prompt.text for prompt in prompts)
    assert any("owl of flock" in prompt.text for prompt in prompts)
    assert all(len(target.tokenizer.encode(prompt.text)) <= 400 for prompt in prompts)
    assert len(texts) == generator.num_jobs
    assert {message.role for message in texts[0].messages} == {"user", "assistant"}
    again, _ = paste(target, tmp_path / "two", Scripted(target, generator.answers), 24)
    assert again == prompts


def test_texts_that_were_written_are_not_written_again(target, tmp_path, monkeypatch):
    monkeypatch.setattr("treedraft.training.pasted_prompts._MAX_REQUEST_TOKENS", 400)
    generator = Scripted(target, [PROSE[:300]])
    paste(target, tmp_path, generator, 6)
    before = generator.num_jobs
    for part in tmp_path.glob("part-*.jsonl"):
        part.unlink()
    prompts, _ = paste(target, tmp_path, generator, 6)
    assert (len(prompts), generator.num_jobs) == (6, before)
