import re
from collections import Counter

import numpy as np
import pytest

from treedraft.training.evaluation.held_out import held_out_prompts
from treedraft.training.grammar import Grammar, parse_template
from treedraft.training.prompt_filter import PromptFilter
from treedraft.training.prompt_grammar import PromptGrammar, fingerprint, prompt_grammar

WORDS = {
    "animal": ["owl", "dog"],
    "hour": ["hour", "unicorn", "European"],
    "figure": ["old {animal}", "king"],
}


def draws(template, words=WORDS, count=200):
    random = np.random.default_rng(0)
    return {Grammar(words).draw(template, random) for _ in range(count)}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", {"plain"}),
        ("{animal}", {"owl", "dog"}),
        ("See {a animal}!", {"See an owl!", "See a dog!"}),
        ("{a Hour}", {"An hour", "A unicorn", "A European"}),
        ("{Figure}", {"Old owl", "Old dog", "King"}),
        ("{animal} and {animal}", {"owl and dog", "dog and owl"}),
        ("{9-11}", {"9", "10", "11"}),
        ("a{| big| {animal|{animal}}}", {"a", "a big", "a animal", "a owl", "a dog"}),
    ],
)
def test_slots_give_what_they_say(template, expected):
    assert draws(template) == expected
    if template.count("animal") < 2:
        assert Grammar(WORDS).count(template) == len(expected)


@pytest.mark.parametrize("template", ["{", "}", "{a{b}", "{}", "{3-1}", "{a b c}", "{-}"])
def test_malformed_templates_are_refused(template):
    with pytest.raises(ValueError, match=r"braces|understands|no number"):
        Grammar(WORDS).count(template)


@pytest.mark.parametrize(
    "words", [{"a": ["{b}"], "b": ["x {a}"]}, {"a": ["{missing}"]}, {"a": []}, {"a": ["{A}"]}]
)
def test_lists_must_be_there_and_not_hold_themselves(words):
    with pytest.raises(ValueError, match="list"):
        Grammar(words)


def test_plain_text_after_a_slot_is_kept():
    assert parse_template("{animal}s.")[-1] == "s."


def test_the_grammar_is_broad_and_fills_every_slot():
    grammar, random = prompt_grammar(), np.random.default_rng(0)
    assert grammar.count(grammar.requests) > 10_000_000
    assert grammar.count(grammar.openings) > 100_000
    assert len(grammar.requests) > 20
    drawn = [grammar.request(random) for _ in range(4000)]
    texts = {one.text for one in drawn}
    assert len(texts) > 0.9 * len(drawn)
    assert not [text for text in texts if re.search(r"\w_\w|[{}|\x1a]", text)]
    assert max(Counter(one.category for one in drawn).values()) < 2 * 4000 / len(grammar.requests)
    openings = {grammar.opening(random).text for _ in range(1000)}
    assert len(openings) > 600
    assert not any("{" in text for text in openings)


def test_nearly_all_requests_keep_away_from_what_is_held_out():
    grammar, random = prompt_grammar(), np.random.default_rng(1)
    prompt_filter = PromptFilter(prompt.text for prompt in held_out_prompts())
    for _ in range(2000):
        prompt_filter.accepts(grammar.request(random).text)
    assert prompt_filter.num_refused["held_out"] <= 40


def test_every_instruction_holds_the_text_once():
    grammar, random = prompt_grammar(), np.random.default_rng(0)
    for kind in grammar.kinds_of_text:
        for _ in range(50):
            assert grammar.pasted(kind, "{some} |text|", random).text.count("{some} |text|") == 1


def test_the_same_seed_draws_the_same():
    first, second = (
        [prompt_grammar().request(np.random.default_rng(3)) for _ in range(5)] for _ in range(2)
    )
    assert first == second
    assert len(fingerprint()) == 64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("requests.txt", "no section", "no section has begun"),
        ("requests.txt", "[a]\n[b]\nx", r"nothing is in \[a\]"),
        ("openings.txt", "[a]\nx\n[b]", "empty section"),
        ("openings.txt", "[a]\n{colour}", "no list 'colour'"),
        ("pasted.txt", "[a: prose]\nno place", "lacks"),
        ("pasted.txt", "[a]\n{text}", "lacks kinds"),
        ("words/more.txt", "[animal]\ncat", "there already"),
    ],
)
def test_files_that_are_wrong_are_named(tmp_path, name, content, message):
    files = {
        "requests.txt": "# remark\n[a]\nSee {a animal}.",
        "openings.txt": "[a]\nSee\\n{animal}",
        "pasted.txt": "[a: prose list]\nRead: {text}",
        "words/animals.txt": "[animal]\nowl; dog\ncat",
    }
    (tmp_path / "words").mkdir()
    for path, text in files.items():
        (tmp_path / path).write_text(text)
    grammar = PromptGrammar(tmp_path)
    assert (grammar.count(grammar.requests), grammar.kinds_of_text) == (3, ("list", "prose"))
    assert grammar.opening(np.random.default_rng(0)).text.startswith("See\n")
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        PromptGrammar(tmp_path)
