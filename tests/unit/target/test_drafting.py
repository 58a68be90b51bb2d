"""When drafters are told of sessions, and what they have to catch up with then."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine_harness import FAKE_DRAFTER, spec

from treedraft.settings import TelemetrySettings
from treedraft.target.drafting import DraftBook
from treedraft.target.session import TargetSession
from treedraft.target.settings import DraftLinkSettings
from treedraft.target.stopping import StopChecker
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

ENDPOINT = FAKE_DRAFTER.endpoint
TRACING = Tracing("target", TelemetrySettings(sample_ratio=0.0))


def make_session(name, num_tokens):
    told = replace(spec(range(1, num_tokens + 1)), session_id=name)
    checker = StopChecker(
        told.stopping, eos_token_ids=frozenset(), max_output_tokens=9999, tokenizer=None
    )
    return TargetSession(
        told,
        stop_checker=checker,
        fingerprint="f",
        span=TRACING.start("session", ""),
        now_ns=0,
        max_live_nodes=8,
        vocab_size=512,
    )


def make_book(**options):
    book = DraftBook(DraftLinkSettings(), vocab_size=512, metrics=Metrics("target"), **options)
    book.link_up(ENDPOINT)
    book.take_frames()
    return book


def told(book):
    """Return the texts that drafters are told of now, and how they go on."""
    frames = book.take_frames()
    if ENDPOINT not in frames:
        return [], []
    frame = frames[ENDPOINT]
    return [len(one.spec.token_ids) for one in frame.opens], [
        len(one.token_ids) for one in frame.commits
    ]


def compute(session, num_tokens):
    session.num_computed += num_tokens


def test_a_drafter_on_cores_of_its_own_begins_beside_the_prompt():
    book, session = make_book(), make_session("a", 40)
    book.open(session)
    book.set_open(True)
    assert told(book) == ([40], [])


def test_a_drafter_on_shared_cores_is_told_when_the_prompt_is_done():
    book, session = make_book(opens_after_prompts=True), make_session("a", 40)
    book.open(session)
    for _ in range(2):
        book.set_open(True)
        assert told(book) == ([], [])
        compute(session, 20)
    session.commit((7,))
    book.committed(session)  # with the step that computes its end
    assert told(book) == ([41], [])


def test_a_link_that_comes_up_is_not_told_of_prompts_under_way():
    book, session = make_book(opens_after_prompts=True), make_session("a", 40)
    book.open(session)
    book.set_open(True)
    book.link_down(ENDPOINT)
    book.link_up(ENDPOINT)
    assert told(book) == ([], [])


def test_a_load_that_closed_meanwhile_never_computes_the_prompt_at_the_drafter():
    book, session = make_book(opens_after_prompts=True), make_session("a", 40)
    book.open(session)
    book.set_open(True)
    compute(session, 39)
    book.set_open(False)
    assert told(book) == ([], [])
    assert not book.take_num_missed()


@pytest.mark.parametrize("num_missed", [1, 25])
def test_what_drafters_have_to_catch_up_with_is_counted_once(num_missed):
    book, session = make_book(), make_session("a", 40)
    book.open(session)
    book.set_open(True)
    assert book.take_num_missed() == 40
    book.set_open(False)
    session.commit((7,) * num_missed)
    book.committed(session)
    book.set_open(True)
    assert book.take_num_missed() == num_missed
    session.commit((7,))
    book.committed(session)
    assert not book.take_num_missed()
    assert told(book)[1] == [num_missed, 1]


def test_a_drafter_is_told_of_a_session_that_goes_on_before_anybody_waits_for_it():
    book, session = make_book(), make_session("a", 40)
    book.open(session)
    book.set_open(True)
    book.set_open(False)
    told(book)
    book.set_open(True)
    assert book.endpoint_of(session) is None  # there is nothing that would end its pause
    assert told(book) == ([], [])
    session.commit((7, 8))
    book.committed(session)
    assert told(book) == ([], [])
    book.set_open(True)
    assert book.endpoint_of(session) == ENDPOINT
    assert told(book) == ([], [2])


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=12))
def test_whoever_is_waited_for_was_told_the_whole_text(steps):
    book, session = make_book(), make_session("a", 5)
    book.open(session)
    book.set_open(True)
    known = sum(told(book)[0])
    for is_open, num_tokens in steps:
        book.set_open(is_open)
        known += sum(told(book)[1])
        assert book.endpoint_of(session) is None or known == session.num_tokens
        if num_tokens:
            session.commit((7,) * num_tokens)
            book.committed(session)
    book.set_open(True)
    assert known + sum(told(book)[1]) == session.num_tokens
