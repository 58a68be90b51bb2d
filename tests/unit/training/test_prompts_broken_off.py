"""What stays of the first stage when it is broken off, and how it goes on."""

import pytest
from training_support import make_generator_of, make_target

from treedraft.training import prompts as prompts_module
from treedraft.training.generator import Generator
from treedraft.training.prompt_settings import PromptSettings, PromptShares
from treedraft.training.prompt_store import PromptStore, user_prompt
from treedraft.training.prompts import collect_prompts
from treedraft.training.speed import FLUSH_SECONDS

LINES = [f"What is the {word} good for?" for word in ("sea", "wind", "moon", "rain", "sun")]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return make_target(tmp_path_factory.mktemp("toy"))


def collect(target, folder, count, files=(), **shares):
    none = dict.fromkeys(("complete", "opening", "free", "pasted"), 0.0)
    return collect_prompts(
        target,
        PromptSettings(
            count=count, max_tokens=24, files=files, shares=PromptShares(**{**none, **shares})
        ),
        folder,
        [],
        seed=1,
        make_generator=make_generator_of(target),
        progress=lambda _: None,
    )


def texts_in(folder):
    return [prompt.text for prompt in PromptStore(folder).read()]


def test_prompts_go_to_disk_every_minute(tmp_path):
    now = [0.0]
    store = PromptStore(tmp_path, clock=lambda: now[0])
    for line in LINES[:3]:
        store.append(user_prompt(line, "free"))
        assert texts_in(tmp_path) == []
    now[0] = FLUSH_SECONDS
    store.append(user_prompt(LINES[3], "free"))
    assert texts_in(tmp_path) == LINES[:4]
    store.append(user_prompt(LINES[4], "free"))
    assert store.num_pending == 1


def test_the_rest_of_the_files_is_read_when_the_stage_goes_on(target, tmp_path, monkeypatch):
    file = tmp_path / "own.txt"
    file.write_text("\n".join(LINES))
    read = prompts_module.read_prompt_file

    def read_and_break(path):
        for number, prompt in enumerate(read(path)):
            if number == 3:
                raise KeyboardInterrupt
            yield prompt

    with monkeypatch.context() as patch:
        patch.setattr(prompts_module, "read_prompt_file", read_and_break)
        with pytest.raises(KeyboardInterrupt):
            collect(target, tmp_path / "store", 5, (str(file),), complete=1.0)
    assert texts_in(tmp_path / "store") == LINES[:3]
    collect(target, tmp_path / "store", 7, (str(file),), complete=1.0)
    assert texts_in(tmp_path / "store")[:5] == LINES
    assert len(set(texts_in(tmp_path / "store"))) == 7


def test_texts_to_paste_from_stay_and_no_request_is_made_twice(target, tmp_path, monkeypatch):
    run = Generator.run

    def run_and_break(self, jobs):
        for number, finished in enumerate(run(self, jobs)):
            if number == 4:
                raise KeyboardInterrupt
            yield finished

    monkeypatch.setattr(Generator, "run", run_and_break)
    for num_texts in (4, 8):
        with pytest.raises(KeyboardInterrupt):
            collect(target, tmp_path, 30, pasted=1.0)
        texts = [prompt.messages[0].content for prompt in PromptStore(tmp_path / "texts").read()]
        assert len(set(texts)) == len(texts) == num_texts
