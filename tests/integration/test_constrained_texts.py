"""Constrained texts: they fit their grammar, and no drafter changes a token of them."""

import json
import re
from dataclasses import replace
from typing import ClassVar

import pytest
from tests.engine_harness import EngineHarness, load_toy, spec
from tests.real_drafters import RealDrafter

from treedraft.core.grammar import ANY_JSON_OBJECT, Grammar, GrammarKind
from treedraft.core.sampling import (
    SamplingParameters,
    SpeculationOptions,
    StoppingCriteria,
    Verification,
)
from treedraft.core.session import FinishReason
from treedraft.core.tools import Tool, ToolChoice, ToolOffer
from treedraft.draft.settings import DraftSettings, GrowthSettings, LookupSettings
from treedraft.inference.toy import make_toy_model, truncate_model
from treedraft.target.admission import SessionFactory
from treedraft.target.settings import (
    BudgetSettings,
    GateSettings,
    KVSettings,
    PatienceSettings,
    TargetSettings,
)
from treedraft.text.tokenizer import Tokenizer
from treedraft.text.tool_formats.formats import FORMATS

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
OFFER = ToolOffer((Tool("keep", "", json.dumps(SCHEMA)), Tool("drop")), ToolChoice.REQUIRED)
GRAMMARS = {
    "schema": Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA)),
    "regex": Grammar(GrammarKind.REGEX, "(one|two|three)( and (one|two|three)){3,9}"),
    "lark": Grammar(GrammarKind.LARK, 'start: item ("; " item)+\nitem: /[a-z]{2,5}/ "=" /[0-9]+/'),
    "calls": FORMATS["hermes"].grammar(OFFER, lambda _: None, "", None),
}
LAWS = {
    "greedy": SamplingParameters(temperature=0.0, seed=1),
    "plain": SamplingParameters(temperature=1.0, seed=5),
    "cut": SamplingParameters(temperature=0.8, top_p=0.9, top_k=30, seed=7),
    "penalised": SamplingParameters(
        temperature=0.8, repetition_penalty=1.2, logit_bias=((6, 3.0),), seed=9
    ),
}
PROMPT = [11, 42, 7, 99, 300, 5, 64, 8, 120, 33] * 2
SETTINGS = TargetSettings(
    kv=KVSettings(tokens=8192, block_size=8),
    budget=BudgetSettings(mode="fixed", max_nodes=16, max_depth=8),
    gate=GateSettings(enabled=False),  # drafted whether or not it pays
    patience=PatienceSettings(enabled=False),
)
STOPPING = StoppingCriteria(max_tokens=160)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    target = make_toy_model(folder / "target", layers=2, seed=3)
    truncate_model(target, folder / "draft", 1)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_toy(folder / "target")


def constrained(grammar, law):
    return spec(PROMPT, sampling=replace(law, grammar=grammar), stopping=STOPPING)


def run_plain(model, session):
    with EngineHarness(model, SETTINGS) as harness:
        return harness.run(replace(session, speculation=SpeculationOptions(enabled=False)))[0]


def run_drafted(folder, model, session, kind="model"):
    settings = DraftSettings(
        growth=GrowthSettings(max_live_nodes=32, max_depth=8),
        lookup=LookupSettings(enabled=kind == "lookup"),
    )
    draft = load_toy(folder / "draft") if kind == "model" else None
    drafter = RealDrafter(settings, draft, vocab_size=model.vocab_size)
    with EngineHarness(model, SETTINGS, drafter, is_lockstep=True) as harness:
        return harness.run(session)[0]


def text_of(model, result) -> str:
    return Tokenizer.from_json(model.tokenizer_json).decode(result.token_ids)


def check_text(name, text):
    if name == "schema":
        value = json.loads(text)
        assert set(value) == {"name", "age", "tags"}
        assert 0 <= value["age"] <= 150
        assert len(value["name"]) <= 12
        assert set(value["tags"]) <= {"red", "green", "blue"}
    elif name == "calls":
        reader = FORMATS["hermes"].reader(OFFER.names, str)
        told = [*reader.push(text)[1], *reader.finish()[1]]
        assert {piece.name for piece in told} <= OFFER.names
        for piece in told:
            assert isinstance(json.loads(piece.arguments), dict)
            if piece.name == "keep":
                check_text("schema", piece.arguments)
    elif name == "regex":
        assert re.fullmatch(GRAMMARS[name].source, text)
    else:
        assert re.match(r"[a-z]{2,5}=[0-9]+", text)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("kind", ["model", "lookup"])
def test_a_constrained_text_is_the_same_with_drafts(folder, model, name, law, kind):
    session = constrained(GRAMMARS[name], LAWS[law])
    plain = run_plain(model, session)
    assert plain.failure is None
    if plain.finish.reason is FinishReason.STOP:
        check_text(name, text_of(model, plain))
    drafted = run_drafted(folder, model, session, kind)
    assert drafted.failure is None
    assert drafted.token_ids == plain.token_ids
    assert drafted.finish.reason is plain.finish.reason
    if kind == "model":
        assert drafted.finish.statistics.accepted_nodes > 0


class BreaksOnDrafts:
    """A matcher that breaks at a path of two drafted tokens."""

    def __init__(self, matcher):
        self._matcher = matcher
        self.is_broken = False

    def __getattr__(self, name):
        return getattr(self._matcher, name)

    def deep_copy(self):
        return BreaksOnDrafts(self._matcher.deep_copy())

    def try_consume_tokens(self, token_ids):
        is_committed = list(token_ids) == self.committed
        self.is_broken = self.is_broken or (len(token_ids) > 1 and not is_committed)
        return 0 if self.is_broken else self._matcher.try_consume_tokens(token_ids)

    def is_error(self):
        return self.is_broken or self._matcher.is_error()

    def get_error(self):
        return "too much" if self.is_broken else self._matcher.get_error()

    committed: ClassVar[list[int]] = []


@pytest.mark.parametrize("law", LAWS)
def test_drafts_that_are_too_much_for_the_matcher_change_no_text(folder, model, law, monkeypatch):
    session = constrained(GRAMMARS["schema"], LAWS[law])
    plain = run_plain(model, session)
    make_session = SessionFactory.make

    def make_brittle(self, spec):
        made = make_session(self, spec)
        made.grammar._matcher = BreaksOnDrafts(made.grammar._matcher)
        made.grammar._fresh = BreaksOnDrafts(made.grammar._fresh)
        BreaksOnDrafts.committed = made.grammar._token_ids
        return made

    monkeypatch.setattr(SessionFactory, "make", make_brittle)
    drafted = run_drafted(folder, model, session)
    assert drafted.failure is None
    assert drafted.token_ids == plain.token_ids
    assert drafted.finish.reason is plain.finish.reason
    assert drafted.finish.statistics.accepted_nodes > 0


def test_a_schema_is_filled_to_its_end(model):
    plain = run_plain(model, constrained(GRAMMARS["schema"], LAWS["plain"]))
    assert plain.finish.reason is FinishReason.STOP
    check_text("schema", text_of(model, plain))


def test_masked_drafts_are_accepted_more_often_than_unmasked_ones(folder, model):
    session = constrained(GRAMMARS["regex"], LAWS["plain"])
    masked = run_drafted(folder, model, session).finish.statistics
    settings = DraftSettings(
        growth=GrowthSettings(max_live_nodes=32, max_depth=8), lookup=LookupSettings(enabled=False)
    )
    drafter = RealDrafter(settings, load_toy(folder / "draft"), vocab_size=model.vocab_size)

    def without_tokenizer(frame):
        return drafter(replace(frame, tokenizer=None))

    with EngineHarness(model, SETTINGS, without_tokenizer, is_lockstep=True) as harness:
        unmasked = harness.run(session)[0].finish.statistics
    assert masked.accepted_nodes > 2 * unmasked.accepted_nodes


@pytest.mark.parametrize("kind", ["model", "lookup"])
def test_rejection_sampling_keeps_to_a_grammar_too(folder, model, kind):
    law = SamplingParameters(temperature=1.0, seed=3, verification=Verification.REJECTION)
    result = run_drafted(folder, model, constrained(GRAMMARS["regex"], law), kind)
    assert result.finish.reason is FinishReason.STOP
    check_text("regex", text_of(model, result))


def test_a_session_that_moves_goes_on_in_its_grammar(model):
    session = constrained(GRAMMARS["schema"], LAWS["plain"])
    whole = run_plain(model, session)
    moved = replace(session, token_ids=(*session.token_ids, *whole.token_ids[:9]))
    rest = run_plain(model, moved)
    assert rest.token_ids == whole.token_ids[9:]


@pytest.mark.parametrize(
    ("session", "reason"),
    [
        (constrained(Grammar(GrammarKind.REGEX, "("), LAWS["plain"]), "INVALID_GRAMMAR"),
        (
            replace(
                constrained(ANY_JSON_OBJECT, LAWS["plain"]),
                stopping=StoppingCriteria(max_tokens=8, ignore_eos=True),
            ),
            "GRAMMAR_CONFLICT",
        ),
    ],
)
def test_a_grammar_that_cannot_be_followed_is_refused(model, session, reason):
    with EngineHarness(model, SETTINGS) as harness:
        (result,) = harness.run(session)
    assert result.failure.reason == reason


def test_what_the_parser_says_of_itself_stays_here(model, monkeypatch):
    make_session = SessionFactory.make

    def make_broken(self, spec):
        made = make_session(self, spec)
        made.grammar.problem = f"parser state: {spec.sampling.grammar.source}"
        return made

    monkeypatch.setattr(SessionFactory, "make", make_broken)
    failure = run_plain(model, constrained(GRAMMARS["schema"], LAWS["greedy"])).failure
    assert failure.reason == "GRAMMAR_TOO_COMPLEX"
    assert "parser" not in failure.message
    assert "properties" not in failure.message
