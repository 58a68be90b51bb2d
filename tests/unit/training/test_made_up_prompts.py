import json
from collections import Counter

import pytest
from pydantic import ValidationError
from training_support import make_generator_of, make_target

from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.core.generation import ChatMessage
from treedraft.training import pasted_prompts, prompt_collection
from treedraft.training.evaluation.held_out import held_out_prompts
from treedraft.training.prompt_filter import PromptFilter
from treedraft.training.prompt_grammar import prompt_grammar
from treedraft.training.prompt_settings import PromptKind, PromptSettings, PromptShares
from treedraft.training.prompt_store import PromptStore, TrainingPrompt, read_prompt_file
from treedraft.training.prompts import collect_prompts
from treedraft.training.user_turns import opening_of_user_turn


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


def collect(target, folder, count, **settings):
    return collect_prompts(
        target,
        PromptSettings(count=count, max_tokens=24, **settings),
        folder,
        [],
        seed=1,
        make_generator=make_generator_of(target),
        progress=lambda _: None,
    )


def kinds(folder):
    return Counter(prompt.kind for prompt in PromptStore(folder).read())


def test_the_target_speaks_as_the_user(target):
    opening = opening_of_user_turn(target)
    assert target.tokenizer.decode(opening, skip_special=False) == "<|im_start|>user\n"


@pytest.mark.usefixtures("lenient")
def test_prompts_that_are_made_up_end_by_themselves_and_some_begin_as_given(target, tmp_path):
    shares = {"complete": 0, "pasted": 0, "opening": 1, "free": 1}
    result = collect(target, tmp_path, 8, shares=shares)
    kept = PromptStore(tmp_path).read()
    assert len(kept) == result["kept"] == 8
    assert result["free"] == result["opening"] == 4
    assert len({prompt.text for prompt in kept}) == 8
    assert all(prompt.messages[-1].role == "user" for prompt in kept)
    assert not any("<|im_" in prompt.text for prompt in kept)
    categories = {*prompt_grammar().openings, *prompt_grammar().requests}
    for prompt in kept:
        if prompt.kind == "opening":
            assert prompt.origin.partition(":")[2] in categories


def test_complete_prompts_need_no_target(tmp_path):
    shares = {"pasted": 0, "free": 0, "opening": 0}
    result = collect(None, tmp_path, 200, shares=shares)
    assert (result["kept"], result["complete"]) == (200, 200)
    again = tmp_path / "again"
    collect(None, again, 200, shares=shares)
    assert PromptStore(again).read() == PromptStore(tmp_path).read()
    collect(None, tmp_path, 300, shares=shares)
    texts = [prompt.text for prompt in PromptStore(tmp_path).read()]
    assert len(set(texts)) == len(texts) == 300


@pytest.mark.usefixtures("lenient")
def test_a_folder_that_was_begun_goes_on_with_other_prompts(target, tmp_path):
    shares = {"complete": 0, "pasted": 0}
    collect(target, tmp_path, 2, shares=shares)
    collect(target, tmp_path, 6, shares=shares)
    texts = [prompt.text for prompt in PromptStore(tmp_path).read()]
    assert len(set(texts)) == len(texts) == 6
    assert kinds(tmp_path) == {"opening": 3, "free": 3}


@pytest.mark.usefixtures("lenient")
def test_what_babble_leaves_is_filled_with_complete_prompts(target, tmp_path, monkeypatch):
    monkeypatch.setattr(pasted_prompts, "_MIN_SPARE", 1)
    # A toy writes nothing that could be pasted.
    result = collect(target, tmp_path, 4, shares={"free": 0, "opening": 0, "pasted": 1})
    assert result["complete"] == 4
    num_texts = len(PromptStore(tmp_path / "texts").read())
    assert num_texts > 0
    collect(target, tmp_path, 4, shares={"free": 0, "opening": 0, "pasted": 1})
    assert len(PromptStore(tmp_path / "texts").read()) == num_texts


@pytest.mark.parametrize("count", [1, 7, 80_000])
def test_shares_are_in_proportion_and_nothing_is_lost(count):
    split = PromptShares().split(count)
    assert sum(split.values()) == count
    assert split[PromptKind.COMPLETE] == pytest.approx(0.36 * count, abs=1)
    with pytest.raises(ValidationError, match="must have a share"):
        PromptShares(complete=0, opening=0, free=0, pasted=0)


def test_files_come_first_and_are_judged_too(target, tmp_path):
    lines = ["Tell me about the sea.", "tell me, about THE SEA!", "Hi", "How do tides work?"]
    file = tmp_path / "own.txt"
    file.write_text("\n".join(lines))
    folder = tmp_path / "store"
    result = collect(target, folder, 2, files=(str(file),))
    assert result == {"kept": 2, "duplicate": 1, "short": 1}
    assert [prompt.text for prompt in PromptStore(folder).read()] == [lines[0], lines[3]]


def test_a_target_without_fit_prompts_is_told_apart(target, tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_collection, "_MIN_ATTEMPTS", 4)
    monkeypatch.setattr(PromptFilter, "accepts", lambda self, text: False)
    with pytest.raises(UnavailableError) as caught:
        collect(target, tmp_path, 1)
    assert caught.value.reason == "TOO_FEW_PROMPTS"


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
