"""Grammars that are made beside the drafter's thread."""

from dataclasses import replace

import pytest
from draft_support import SAMPLED, FakeTarget, make_drafter, make_spec
from tests.unit.coordinator.support import encode, toy_tokenizer_json

from treedraft.core.exchange import SharedTokenizer
from treedraft.core.grammar import ANY_JSON_OBJECT, Grammar, GrammarKind
from treedraft.draft.grammars import DraftGrammars
from treedraft.text.grammar import GrammarFactory

EOS = 256
TOKENIZER = SharedTokenizer(toy_tokenizer_json(), (EOS,))
ABC = Grammar(GrammarKind.REGEX, "[abc]+")


def allowed(state) -> set[int]:
    return {i for i, is_allowed in enumerate(state.allowed_after(())) if is_allowed}


def test_a_drafter_goes_on_while_a_grammar_is_made(tmp_path):
    works = []
    target = FakeTarget(make_drafter(tmp_path, grammars=DraftGrammars(works.append)))
    text = encode("abcabcab")
    target.send(tokenizer=TOKENIZER)
    target.open(1, make_spec(text, sampling=replace(SAMPLED, grammar=ABC)))
    target.grow()
    assert len(target.trees[1]) > 0
    target.commit(1, encode("ca"))
    (session,) = [session for session, _ in target.drafter._book.sessions]
    assert session.grammar is None
    for work in works:
        work()
    target.drafter.take_posted()
    target.commit(1, encode("b"))
    assert session.grammar is not None
    assert session.grammar._token_ids == encode("cab")
    assert session.allows((), encode("a")[0])
    assert not session.allows((), encode("z")[0])


def test_a_grammar_of_a_session_that_has_ended_meanwhile_is_no_matter(tmp_path):
    works = []
    target = FakeTarget(make_drafter(tmp_path, grammars=DraftGrammars(works.append)))
    target.send(tokenizer=TOKENIZER)
    target.open(1, make_spec(encode("abc"), sampling=replace(SAMPLED, grammar=ABC)))
    target.send(closes=[1])
    works[0]()
    target.drafter.take_posted()
    assert target.drafter.report.num_sessions == 0


def test_a_vocabulary_is_taken_in_once_and_a_bad_grammar_is_done_without(monkeypatch):
    made = []
    make = GrammarFactory.make
    monkeypatch.setattr(GrammarFactory, "make", lambda *parts: made.append(parts) or make(*parts))
    grammars, ready = DraftGrammars(lambda work: work()), []
    for grammar in (ABC, Grammar(GrammarKind.REGEX, "("), ANY_JSON_OBJECT):
        grammars.want(TOKENIZER, 257, grammar, (), ready.append)
    assert [allowed(state) for state in ready] == [set(encode("abc")), set(encode("{"))]
    assert len(made) == 1


@pytest.mark.parametrize("tokenizer_json", ["no tokenizer", "[]", '{"model": 3}'])
def test_a_vocabulary_that_cannot_be_taken_in_is_done_without(tokenizer_json):
    ready = []
    grammars = DraftGrammars(lambda work: work())
    grammars.want(SharedTokenizer(tokenizer_json, (EOS,)), 257, ABC, (), ready.append)
    assert ready == []


def test_without_its_merges_a_tokenizer_allows_the_same(tmp_path):
    states = []
    DraftGrammars(lambda work: work()).want(TOKENIZER, 257, ABC, encode("ab"), states.append)
    whole = GrammarFactory(TOKENIZER.tokenizer_json, 257, [EOS]).start(ABC, encode("ab"))
    assert allowed(states[0]) == allowed(whole)
