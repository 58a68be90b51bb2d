import json

import pytest
from training_support import make_generator_of, make_target

from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.core.generation import ChatMessage
from treedraft.training import prompts as prompts_module
from treedraft.training.evaluation.held_out import held_out_prompts
from treedraft.training.prompt_filter import PromptFilter
from treedraft.training.prompt_store import PromptStore, TrainingPrompt, read_prompt_file
from treedraft.training.prompts import (
    PromptSettings,
    collect_prompts,
    opening_of_user_turn,
    starters,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return make_target(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def lenient(monkeypatch):
    # A toy babbles: its bytes are no words.
    monkeypatch.setattr(
        PromptFilter,
        "_reason_to_refuse",
        lambda self, text, words: "duplicate" if " ".join(words) in self._seen else "",
    )


def collect(target, store, count, **settings):
    return collect_prompts(
        target,
        PromptSettings(count=count, max_tokens=24, **settings),
        store,
        [],
        seed=1,
        make_generator=make_generator_of(target),
        progress=lambda _: None,
    )


def test_the_target_speaks_as_the_user(target):
    opening = opening_of_user_turn(target)
    assert target.tokenizer.decode(opening, skip_special=False) == "<|im_start|>user\n"


@pytest.mark.usefixtures("lenient")
def test_prompts_end_by_themselves_and_some_begin_as_given(target, tmp_path):
    store = PromptStore(tmp_path)
    result = collect(target, store, 20)
    kept = store.read()
    assert len(kept) == result["kept"] == 20
    assert len({prompt.text for prompt in kept}) == 20
    assert all(prompt.messages[-1].role == "user" for prompt in kept)
    assert not any("<|im_" in prompt.text for prompt in kept)
    texts_of = {}
    for one in starters():
        texts_of.setdefault(one.category, []).append(one.text)
    begun = [prompt for prompt in kept if prompt.origin != "free"]
    assert 0 < len(begun) < 20
    for prompt in begun:
        assert prompt.text.startswith(tuple(text.strip() for text in texts_of[prompt.origin]))


@pytest.mark.usefixtures("lenient")
def test_a_store_that_was_begun_goes_on_with_other_prompts(target, tmp_path):
    store = PromptStore(tmp_path)
    collect(target, store, 6)
    collect(target, store, 12)
    texts = [prompt.text for prompt in store.read()]
    assert len(set(texts)) == len(texts) == 12
    assert store.num_parts == 2


def test_files_come_first_and_are_judged_too(target, tmp_path):
    lines = ["Tell me about the sea.", "tell me, about THE SEA!", "Hi", "How do tides work?"]
    file = tmp_path / "own.txt"
    file.write_text("\n".join(lines))
    store = PromptStore(tmp_path / "store")
    result = collect(target, store, 2, files=(str(file),))
    assert result == {"kept": 2, "duplicate": 1, "short": 1}
    assert [prompt.text for prompt in store.read()] == [lines[0], lines[3]]


def test_a_target_without_fit_prompts_is_told_apart(target, tmp_path, monkeypatch):
    monkeypatch.setattr(prompts_module, "_MIN_ATTEMPTS", 4)
    monkeypatch.setattr(PromptFilter, "accepts", lambda self, text: False)
    with pytest.raises(UnavailableError) as caught:
        collect(target, PromptStore(tmp_path), 1)
    assert caught.value.reason == "TOO_FEW_PROMPTS"


def test_starters_cover_much_and_leave_the_next_word_open():
    assert len(starters()) >= 150
    assert len({one.category for one in starters()}) >= 10
    assert len({one.text for one in starters()}) == len(starters())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Why?", "short"),
        ("Incomprehensibilities", "short"),
        ("What is \ufffd in this text?", "unprintable"),
        ("What is \x00 in this text?", "unprintable"),
        ("What is this thing good for?", ""),
        ("Fix this:\n\tx = 1 + 2", ""),
        ("Tell me about an old lighthouse keeper in the north", "held_out"),  # trigrams
        ("Please, now: one two three four five six seven eight nine words here", "held_out"),
    ],
)
def test_the_filter_says_why(text, reason):
    held_out = [
        "Tell me about an old lighthouse keeper",
        "Some text pasted. One, two, three, four, five, six, seven, eight, and so on and on.",
    ]
    prompt_filter = PromptFilter(held_out)
    assert prompt_filter.accepts(text) == (not reason)
    assert list(prompt_filter.num_refused) == ([reason] if reason else [])


def test_no_held_out_prompt_passes_and_duplicates_pass_once():
    texts = [prompt.text for prompt in held_out_prompts()]
    prompt_filter = PromptFilter(texts)
    assert not any(prompt_filter.accepts(text.upper()) for text in texts)
    assert prompt_filter.accepts("What do whales sing about?")
    assert not prompt_filter.accepts("what do WHALES sing about")


def test_prompts_survive_the_disk(tmp_path):
    messages = (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "Line\u2028separators\nand „quotes“"),
    )
    store = PromptStore(tmp_path)
    store.append(TrainingPrompt(messages, "free"))
    assert store.read() == []
    store.flush_part()
    assert PromptStore(tmp_path).read() == [TrainingPrompt(messages, "free")]


def test_json_lines_hold_prompts_or_conversations(tmp_path):
    file = tmp_path / "own.jsonl"
    entries = [{"prompt": "One?"}, {"messages": [{"role": "user", "content": "Two?"}]}]
    file.write_text("\n\n".join(json.dumps(entry) for entry in entries))
    assert [prompt.text for prompt in read_prompt_file(file)] == ["One?", "Two?"]


@pytest.mark.parametrize(
    "line",
    ["no json", "{}", '{"prompt": 3}', '{"messages": []}', '{"messages": [{"role": 1}]}', "[1]"],
)
def test_lines_that_are_no_prompt_are_named(tmp_path, line):
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line)
    with pytest.raises(InvalidRequestError, match=r"own\.jsonl:2") as caught:
        list(read_prompt_file(file))
    assert caught.value.reason == "PROMPTS_UNREADABLE"
