"""Grammars: what may follow, at the end of a text and at places of a tree."""

import json

import pytest
from llguidance import LLMatcher
from tests.unit.coordinator.support import encode, toy_tokenizer_json

from treedraft.core.errors import InvalidRequestError
from treedraft.core.grammar import ANY_JSON_OBJECT, MAX_GRAMMAR_CHARS, Grammar, GrammarKind
from treedraft.text.grammar import GrammarFactory, check_grammar

EOS = 256
SCHEMA = Grammar(
    GrammarKind.JSON_SCHEMA,
    json.dumps(
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
            "required": ["a", "b"],
            "additionalProperties": False,
        }
    ),
)


@pytest.fixture(scope="module")
def factory():
    return GrammarFactory(toy_tokenizer_json(), 257, [EOS])


def allowed(state, path=()):
    mask = state.allowed_after(path)
    return None if mask is None else {i for i, is_allowed in enumerate(mask) if is_allowed}


def test_a_text_is_followed_to_its_end(factory):
    state = factory.start(SCHEMA)
    text = encode('{"a": 12, "b": "y"}')
    for token_id in text:
        assert token_id in allowed(state)
        assert EOS not in allowed(state)
        state.commit([token_id])
    assert allowed(state) == {EOS}
    state.commit([EOS])
    assert allowed(state) is None
    assert not state.problem


def test_every_place_is_judged_by_its_own_path(factory):
    state = factory.start(SCHEMA, encode('{"a": 1, "b": "'))
    ends = set(encode("xy"))
    assert allowed(state) == ends
    assert allowed(state, encode("x")) == set(encode('"'))
    assert allowed(state, encode('x"')) == set(encode("}"))
    assert allowed(state, encode("z")) is None
    assert allowed(state, [*encode('x"}'), EOS]) is None
    assert allowed(state) == ends  # looking changes nothing
    assert state.allows((), encode("x")[0])
    assert not state.allows((), encode("z")[0])
    state.commit(encode("y"))
    assert allowed(state) == set(encode('"'))


def test_a_text_that_leaves_the_grammar_is_a_problem(factory):
    state = factory.start(SCHEMA)
    state.commit(encode("nonsense"))
    assert state.problem
    assert allowed(state) == {EOS}


@pytest.mark.parametrize(
    ("kind", "source", "word"),
    [
        (GrammarKind.REGEX, "[ab]{3}|xyz", "xyz"),
        (GrammarKind.LARK, 'start: "yes" | "no"', "no"),
        (
            GrammarKind.JSON_SCHEMA,
            '{"type": "array", "items": {"type": "boolean"}}',
            "[true, false]",
        ),
    ],
)
def test_all_kinds_are_followed(factory, kind, source, word):
    state = factory.start(Grammar(kind, source), encode(word))
    assert not state.problem
    assert EOS in allowed(state)


def test_any_json_object_is_one(factory):
    state = factory.start(ANY_JSON_OBJECT)
    assert allowed(state) == set(encode("{"))


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (GrammarKind.JSON_SCHEMA, '{"type": "unheard-of"}'),
        (GrammarKind.JSON_SCHEMA, "no json"),
        (GrammarKind.JSON_SCHEMA, "[]"),
        (GrammarKind.JSON_SCHEMA, "[" * 60_000),
        (GrammarKind.REGEX, "("),
        (GrammarKind.LARK, "start: nothing"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_a_reason(factory, kind, source):
    grammar = Grammar(kind, source)
    for check in (check_grammar, factory.start):
        with pytest.raises(InvalidRequestError) as caught:
            check(grammar)
        assert caught.value.reason == "INVALID_GRAMMAR"
        assert len(caught.value.message) < 400


def test_a_grammar_has_a_length():
    for source in ("", "x" * (MAX_GRAMMAR_CHARS + 1)):
        with pytest.raises(InvalidRequestError) as caught:
            Grammar(GrammarKind.REGEX, source)
        assert caught.value.reason == "INVALID_GRAMMAR"


def test_a_tokenizer_that_cannot_be_followed_makes_no_factory():
    assert GrammarFactory.make("no tokenizer", 10, [1]) is None


class Brittle:
    """A matcher that breaks when it is to consume more than a few tokens at once."""

    def __init__(self, matcher, most):
        self._matcher = matcher
        self._most = most
        self._is_broken = False

    def __getattr__(self, name):
        return getattr(self._matcher, name)

    def deep_copy(self):
        return Brittle(self._matcher.deep_copy(), self._most)

    def try_consume_tokens(self, token_ids):
        self._is_broken = self._is_broken or len(token_ids) > self._most
        return 0 if self._is_broken else self._matcher.try_consume_tokens(token_ids)

    def is_error(self):
        return self._is_broken or self._matcher.is_error()

    def get_error(self):
        return "too much" if self._is_broken else self._matcher.get_error()


def test_a_path_that_is_too_much_for_the_matcher_is_cut_and_no_end(factory):
    state = factory.start(SCHEMA)
    state._matcher = Brittle(state._matcher, 2)
    assert allowed(state, encode('{"a')) is None
    assert state.is_cut(encode('{"a'))
    assert not state.is_cut(encode('{"'))
    assert not state.problem
    assert allowed(state) == set(encode("{"))  # the text itself goes on
    state.commit(encode('{"a'))
    assert not state.is_cut(encode('{"a'))
    assert allowed(state) == set(encode('"'))


def test_a_text_that_is_too_much_for_the_matcher_is_a_problem(factory):
    state = factory.start(SCHEMA)
    state._matcher = Brittle(state._matcher, -1)
    assert allowed(state) == {EOS}
    assert state.problem


def test_a_grammar_is_compiled_once(factory, monkeypatch):
    compiled = []

    def matcher(*args, **options):
        compiled.append(args)
        return LLMatcher(*args, **options)

    monkeypatch.setattr("treedraft.text.grammar.LLMatcher", matcher)
    grammar = Grammar(GrammarKind.REGEX, "[ab]+c")
    monkeypatch.setattr(matcher, "grammar_from_regex", LLMatcher.grammar_from_regex, raising=False)
    factory.prepare(grammar)
    one, other = factory.start(grammar), factory.start(grammar, encode("ab"))
    one.commit(encode("a"))
    assert allowed(one) == allowed(other) == set(encode("abc"))
    assert len(compiled) == 1
