import asyncio
from dataclasses import replace

import pytest
from tests.unit.coordinator.support import a_spec, encode, output, toy_tokenizer_json

from treedraft.coordinator.pieces import TextPieces
from treedraft.coordinator.relay import SessionRelay
from treedraft.coordinator.text_output import TextOutput
from treedraft.core.errors import (
    CancelledError,
    OverloadedError,
    TokensMismatchError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.generation import Delta, ResumeQuery, hash_tokens
from treedraft.core.sampling import SamplingParameters, Verification
from treedraft.core.session import (
    FinishReason,
    RoundReport,
    SessionFailure,
    SessionFinish,
    SessionOutput,
)
from treedraft.text.tokenizer import Tokenizer

REJECTION = SamplingParameters(seed=7, verification=Verification.REJECTION)


class FakeLog:
    def __init__(self):
        self.token_ids = []

    def append(self, token_ids):
        self.token_ids.extend(token_ids)


class Setup:
    def __init__(self, *, stop=(), max_unread=100, **spec):
        self.spec = a_spec(**spec)
        tokenizer = Tokenizer.from_json(toy_tokenizer_json())
        self.acknowledged = []
        self.arrivals = []
        self.log = FakeLog()
        self.relay = SessionRelay(
            self.spec,
            TextOutput(tokenizer, stop),
            acknowledge=self.acknowledged.append,
            on_tokens=self.arrivals.append,
            max_unread_tokens=max_unread,
            pieces=TextPieces(tokenizer) if self.spec.watch_rounds else None,
        )
        self.relay.write_to(self.log)

    def deliver(self, base, text, reason=None):
        self.relay.deliver(output(self.spec, base, encode(text), reason))

    async def read_all(self):
        events = []
        while not events or not isinstance(events[-1], SessionFinish):
            events.append(await self.relay.read(1.0))
        return events[:-1], events[-1]


async def test_tokens_are_shown_as_they_come_and_logged_behind():
    setup = Setup()
    setup.deliver(0, "ab")
    first = await setup.relay.read()
    assert (first.base_length, first.text, list(first.token_ids)) == (0, "ab", encode("ab"))
    assert len(first.sources) == 2
    assert setup.acknowledged == []
    setup.deliver(2, "c", FinishReason.STOP)
    deltas, finish = await setup.read_all()
    assert [(delta.base_length, delta.text) for delta in deltas] == [(2, "c")]
    assert finish.reason is FinishReason.STOP
    assert setup.log.token_ids == encode("abc")
    assert setup.arrivals == [2, 1]


async def test_a_slow_reader_gets_everything_at_once():
    setup = Setup()
    for index, letter in enumerate("hello"):
        setup.deliver(index, letter)
    delta = await setup.relay.read()
    assert (delta.base_length, delta.text) == (0, "hello")


async def test_the_reader_is_woken():
    setup = Setup()
    reading = asyncio.create_task(setup.relay.read())
    await asyncio.sleep(0)
    assert not reading.done()
    setup.deliver(0, "x")
    assert (await reading).text == "x"


async def test_rejection_shows_only_what_is_logged():
    setup = Setup(sampling=REJECTION)
    setup.deliver(0, "abc", FinishReason.LENGTH)
    with pytest.raises(CancelledError):
        await setup.relay.read(0.0)
    setup.relay.on_logged(3 + 2)
    assert (await setup.relay.read()).text == "ab"
    setup.relay.on_logged(3 + 3)
    deltas, finish = await setup.read_all()
    assert [delta.text for delta in deltas] == ["c"]
    assert finish.reason is FinishReason.LENGTH


async def test_a_reader_that_stays_behind_holds_the_acknowledgement_back():
    setup = Setup(max_unread=2)
    setup.deliver(0, "abcdef")
    setup.relay.on_logged(3 + 6)
    assert setup.acknowledged == [3 + 2]
    await setup.relay.read()
    assert setup.acknowledged == [3 + 2, 3 + 6]


async def test_stop_strings_cut_the_text_wherever_they_fall():
    setup = Setup(stop=("END",))
    for base, text in ((0, "one E"), (5, "N"), (6, "D")):
        setup.deliver(base, text, FinishReason.STOP if text == "D" else None)
    deltas, _ = await setup.read_all()
    assert "".join(delta.text for delta in deltas) == "one "
    assert [token for delta in deltas for token in delta.token_ids] == encode("one END")


async def test_what_was_kept_back_comes_at_the_end():
    setup = Setup(stop=("END",))
    setup.deliver(0, "one EN")
    assert (await setup.relay.read()).text == "one "
    setup.relay.deliver(output(setup.spec, 6, [], FinishReason.LENGTH))
    deltas, _ = await setup.read_all()
    assert deltas == [Delta(base_length=6, token_ids=(), sources=(), text="EN")]


async def test_half_characters_are_kept_back():
    setup = Setup()
    ids = encode("é!")
    setup.relay.deliver(output(setup.spec, 0, ids[:1]))
    assert (await setup.relay.read()).text == ""
    setup.relay.deliver(output(setup.spec, 1, ids[1:], FinishReason.STOP))
    deltas, _ = await setup.read_all()
    assert [delta.text for delta in deltas] == ["é!"]


async def test_outputs_of_another_epoch_are_ignored():
    setup = Setup(epoch=2)
    setup.relay.deliver(replace(output(setup.spec, 0, [5]), epoch=1))
    with pytest.raises(CancelledError) as caught:
        await setup.relay.read(0.0)
    assert caught.value.reason == "DEADLINE_EXCEEDED"


async def test_skipped_tokens_are_an_error_after_those_that_came():
    setup = Setup()
    setup.deliver(0, "ab")
    setup.deliver(3, "d")
    assert (await setup.relay.read()).text == "ab"
    with pytest.raises(UnavailableError) as caught:
        await setup.relay.read()
    assert caught.value.reason == "OUTPUT_GAP"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("KV_POOL_FULL", OverloadedError), ("DRAINING", UnavailableError), ("ODD", TreedraftError)],
)
async def test_a_failure_of_the_target_becomes_an_error(reason, expected):
    setup = Setup()
    setup.deliver(0, "a")
    failure = SessionFailure(reason, "because")
    setup.relay.deliver(SessionOutput("s1", 1, 0, failure=failure))
    assert (await setup.relay.read()).text == "a"
    with pytest.raises(expected) as caught:
        await setup.relay.read()
    assert type(caught.value) is expected
    assert caught.value.reason == (reason if reason != "ODD" else "INTERNAL")


async def test_after_the_end_nothing_changes():
    setup = Setup()
    setup.deliver(0, "a", FinishReason.STOP)
    setup.relay.fail(UnavailableError("late"))
    setup.deliver(1, "b")
    deltas, finish = await setup.read_all()
    assert [delta.text for delta in deltas] == ["a"]
    assert finish.reason is FinishReason.STOP


async def test_a_resumed_session_counts_on():
    setup = Setup(token_ids=(1, 2, 3, 40, 41), prompt_length=3)
    setup.relay.deliver(output(setup.spec, 2, encode("z"), FinishReason.STOP))
    deltas, _ = await setup.read_all()
    assert [delta.base_length for delta in deltas] == [2]
    setup.relay.on_logged(6)
    assert setup.acknowledged == [6]


async def test_an_unlogged_end_is_no_good_end_under_rejection():
    setup = Setup(sampling=REJECTION)
    setup.deliver(0, "a", FinishReason.STOP)
    setup.relay.fail(UnavailableError("away", reason="STORE_UNAVAILABLE"))
    with pytest.raises(UnavailableError):
        await setup.relay.read(1.0)


async def test_a_relay_that_left_its_target_listens_to_the_next_one_only():
    setup = Setup()
    setup.deliver(0, "ab")
    setup.relay.fail(UnavailableError("gone", reason="TARGET_LOST"))
    setup.relay.leave()
    setup.deliver(2, "x")
    setup.relay.follow(2)
    setup.deliver(2, "y")
    assert setup.relay.token_ids == (1, 2, 3, *encode("ab"))
    setup.relay.deliver(replace(output(setup.spec, 2, encode("c"), FinishReason.STOP), epoch=2))
    deltas, finish = await setup.read_all()
    assert [delta.text for delta in deltas] == ["abc"]
    assert finish.reason is FinishReason.STOP
    assert setup.log.token_ids == encode("abc")


def restored(logged, held, **options):
    setup = Setup(**options)
    setup.relay.restore(encode(logged), ResumeQuery("s1", len(held), hash_tokens(encode(held))))
    return setup


async def test_a_watched_text_is_marked_also_where_it_was_kept_back():
    setup = Setup(stop=("END",), watch_rounds=True)
    setup.deliver(0, "one E")
    first = await setup.relay.read()
    setup.deliver(5, "x", FinishReason.STOP)
    second = await setup.relay.read()
    assert (first.text, second.text) == ("one ", "Ex")
    assert [len(delta.text_sources) for delta in (first, second)] == [4, 2]


async def test_a_resumed_reader_who_watches_gets_marks_for_what_comes():
    setup = restored("one t", "one", watch_rounds=True)
    setup.deliver(5, "wo", FinishReason.LENGTH)
    deltas, _ = await setup.read_all()
    assert "".join(delta.text for delta in deltas) == " two"
    assert sum(len(delta.text_sources) for delta in deltas) == 4


async def test_a_resumed_reader_gets_what_it_does_not_hold():
    setup = restored("one E", "one", stop=("END",))
    assert (await setup.relay.read()).base_length == 3
    setup.deliver(5, "ND", FinishReason.STOP)
    deltas, _ = await setup.read_all()
    assert "".join(delta.text for delta in deltas) == ""
    assert [token for delta in deltas for token in delta.token_ids] == encode("ND")
    assert setup.log.token_ids == encode("ND")


async def test_a_reader_that_holds_more_than_the_log_waits_until_it_is_said_again():
    setup = restored("on", "one t")
    setup.deliver(2, "e")
    with pytest.raises(CancelledError):
        await setup.relay.read(0.0)
    setup.deliver(3, " two", FinishReason.LENGTH)
    deltas, _ = await setup.read_all()
    assert [(delta.base_length, delta.text) for delta in deltas] == [(5, "wo")]


@pytest.mark.parametrize("end", [None, FinishReason.LENGTH])
async def test_a_reader_of_another_text_is_told_so(end):
    setup = restored("on", "one t" if end else "oxe")
    setup.deliver(2, "e", end)
    with pytest.raises(TokensMismatchError):
        await setup.relay.read(1.0)


def a_round(setup, base, text):
    said = output(setup.spec, base, encode(text))
    report = RoundReport(said.base_length, bonus_token_id=said.token_ids[-1])
    assert len(said.token_ids) == 1
    return replace(said, round=report)


async def test_rounds_come_with_their_tokens():
    setup = Setup()
    setup.relay.deliver(a_round(setup, 0, "a"))
    setup.relay.deliver(a_round(setup, 1, "b"))
    delta = await setup.relay.read()
    assert [report.end_length for report in delta.rounds] == [4, 5]
    setup.relay.deliver(a_round(setup, 2, "c"))
    assert len((await setup.relay.read()).rounds) == 1


async def test_rounds_of_tokens_that_may_not_be_shown_yet_are_kept_back():
    setup = Setup(sampling=REJECTION)
    setup.relay.deliver(a_round(setup, 0, "a"))
    setup.relay.deliver(a_round(setup, 1, "b"))
    setup.relay.on_logged(4)
    first = await setup.relay.read()
    assert [report.end_length for report in first.rounds] == [4]
    setup.relay.on_logged(5)
    assert [report.end_length for report in (await setup.relay.read()).rounds] == [5]


async def test_rounds_left_unread_are_bounded():
    setup = Setup()
    for base in range(1000):
        setup.relay.deliver(a_round(setup, base, "a"))
    delta = await setup.relay.read()
    assert len(delta.token_ids) == 1000
    assert [report.base_length for report in delta.rounds] == [3 + n for n in range(744, 1000)]
