import asyncio
from dataclasses import dataclass, field

import pytest
from tests.unit.coordinator.support import until

from treedraft.coordinator.log_writer import LogEntry
from treedraft.coordinator.session_log import LogPace, SessionLog
from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.coordinator.session_store.records import SessionPlacement, SessionRequest
from treedraft.core.errors import SessionConflictError, TreedraftError, UnavailableError
from treedraft.core.sampling import SamplingParameters
from treedraft.core.session import FinishReason

REQUEST = SessionRequest("s1", "toy", "f", (1, 2, 3), SamplingParameters(seed=1))
ENTRY = LogEntry(REQUEST, 1, "c1", SessionPlacement("t1", "i", "t1:1"))
PACE = LogPace(interval_seconds=0.0, renew_seconds=30.0, patience_seconds=5.0)


class FlakyStore(EmbeddedSessionStore):
    """A store that is away while `is_away`, and counts what reaches it."""

    def __init__(self):
        super().__init__(session_ttl_seconds=60, lease_seconds=30, worker_ttl_seconds=5)
        self.is_away = False
        self.num_tries = 0
        self.batches = []
        self.num_renewed = 0

    def check(self):
        self.num_tries += 1
        if self.is_away:
            raise UnavailableError("away", reason="STORE_UNAVAILABLE")

    async def append_tokens(self, session_id, epoch, base_length, token_ids, *, owner):
        self.check()
        self.batches.append(list(token_ids))
        return await super().append_tokens(session_id, epoch, base_length, token_ids, owner=owner)

    async def renew(self, session_id, epoch, *, owner):
        self.check()
        self.num_renewed += 1
        await super().renew(session_id, epoch, owner=owner)

    async def finish(self, session_id, epoch, length, reason, *, owner):
        self.check()
        await super().finish(session_id, epoch, length, reason, owner=owner)


@dataclass
class Seen:
    """What the log told."""

    lengths: list[int] = field(default_factory=list)
    errors: list[TreedraftError] = field(default_factory=list)


@pytest.fixture
async def store():
    store = FlakyStore()
    await store.create(REQUEST, owner="c1")
    return store


def start(store, seen, pace=PACE, **options):
    log = SessionLog(
        store, ENTRY, pace, on_logged=seen.lengths.append, on_lost=seen.errors.append, **options
    )
    log.start()
    return log


async def test_tokens_are_written_in_batches_and_the_end_is_kept(store):
    seen = Seen()
    log = start(store, seen)
    log.append([10])
    log.append([11, 12])
    await until(lambda: seen.lengths == [6])
    log.append([13])
    assert await log.finish(FinishReason.LENGTH)
    record = await store.load("s1")
    assert record.output_token_ids == (10, 11, 12, 13)
    assert record.finish_reason is FinishReason.LENGTH
    assert store.batches == [[10, 11, 12], [13]]
    assert seen.lengths == [6, 7]
    assert seen.errors == []


async def test_what_a_store_lost_of_the_end_of_a_log_is_written_again(store):
    seen = Seen()
    log = start(store, seen)
    log.append([10, 11, 12])
    await until(lambda: seen.lengths == [6])
    del store._sessions["s1"].token_ids[-2:]  # as after a fail-over to a replica that lags
    log.append([13])
    await until(lambda: seen.lengths == [6, 7])
    assert (await store.load("s1")).output_token_ids == (10, 11, 12, 13)
    assert seen.errors == []
    assert await log.finish(FinishReason.STOP)


async def test_tokens_gather_between_writes(store):
    seen = Seen()
    log = start(store, seen, LogPace(60.0, 30.0, 5.0))
    log.append([10])
    await until(lambda: seen.lengths == [4])
    for token_id in range(11, 15):
        log.append([token_id])
        await asyncio.sleep(0)
    assert await log.finish(FinishReason.STOP)  # does not wait for the interval
    assert store.batches == [[10], [11, 12, 13, 14]]


async def test_finishing_twice_keeps_the_first_reason(store):
    log = start(store, Seen())
    assert await log.finish(FinishReason.STOP)
    assert await log.finish(FinishReason.CANCELLED)
    assert (await store.load("s1")).finish_reason is FinishReason.STOP


async def test_a_quiet_session_keeps_its_lease(store):
    log = start(store, Seen(), LogPace(0.0, 0.01, 5.0))
    await until(lambda: store.num_renewed >= 3)
    assert await log.finish(FinishReason.STOP)
    assert store.batches == []


async def test_an_outage_is_survived(store):
    seen = Seen()
    log = start(store, seen)
    store.is_away = True
    log.append([10])
    await until(lambda: store.num_tries >= 2)
    log.append([11])
    store.is_away = False
    await until(lambda: seen.lengths and seen.lengths[-1] == 5)
    assert await log.finish(FinishReason.STOP)
    assert (await store.load("s1")).output_token_ids == (10, 11)
    assert seen.errors == []


async def test_the_end_waits_for_the_store_but_not_for_ever(store):
    log = start(store, Seen(), LogPace(0.0, 30.0, 0.05))
    store.is_away = True
    log.append([10])
    assert not await log.finish(FinishReason.STOP)
    store.is_away = False
    assert (await store.load("s1")).finish_reason is None


async def test_a_log_that_goes_first_gives_up_after_its_patience(store):
    seen = Seen()
    log = start(store, seen, LogPace(0.0, 30.0, 0.05), is_ahead=True)
    store.is_away = True
    log.append([10])
    await until(lambda: bool(seen.errors))
    assert seen.errors[0].reason == "STORE_UNAVAILABLE"
    assert not await log.finish(FinishReason.CANCELLED)


async def test_a_newer_owner_ends_the_log(store):
    seen = Seen()
    log = start(store, seen)
    await store.claim("s1", owner="c1")
    log.append([10])
    await until(lambda: bool(seen.errors))
    assert seen.errors[0].reason == "STALE_EPOCH"
    assert not await log.finish(FinishReason.STOP)
    assert (await store.load("s1")).output_token_ids == ()


async def test_a_session_that_the_store_lost_is_put_back():
    store, seen = FlakyStore(), Seen()
    await store.create(REQUEST, owner="c1")
    log = start(store, seen)
    log.append([10, 11])
    await until(lambda: seen.lengths == [5])
    store._sessions.clear()
    log.append([12])
    assert await log.finish(FinishReason.STOP)
    record = await store.load("s1")
    assert record.output_token_ids == (10, 11, 12)
    assert (record.epoch, record.placement) == (1, ENTRY.placement)
    assert record.finish_reason is FinishReason.STOP


async def test_a_session_that_never_ran_is_closed_all_the_same(store):
    log = SessionLog(store, ENTRY, PACE, on_logged=print, on_lost=print)
    assert await log.finish(FinishReason.CANCELLED)
    assert (await store.load("s1")).finish_reason is FinishReason.CANCELLED


MOVED = SessionPlacement("t2", "i", "t2:1")


async def test_a_session_that_moves_is_claimed_anew_and_written_on(store):
    seen = Seen()
    log = start(store, seen)
    log.append([10])
    await until(lambda: seen.lengths == [4])
    assert await log.take_over(MOVED) == 2
    log.append([11])
    assert await log.finish(FinishReason.STOP)
    record = await store.load("s1")
    assert (record.epoch, record.placement) == (2, MOVED)
    assert record.output_token_ids == (10, 11)
    assert seen.errors == []


async def test_no_write_meets_a_claim_whose_answer_was_lost(store, monkeypatch):
    seen = Seen()
    log = start(store, seen)
    answers = []

    async def claim(session_id, *, owner):
        answers.append(await EmbeddedSessionStore.claim(store, session_id, owner=owner))
        log.append([10 + len(answers)])
        if len(answers) == 1:
            raise UnavailableError("the answer was lost", reason="STORE_UNAVAILABLE")
        return answers[-1]

    monkeypatch.setattr(store, "claim", claim)
    assert await log.take_over(MOVED) == 3
    await until(lambda: seen.lengths == [5])
    assert seen.errors == []
    assert await log.finish(FinishReason.STOP)
    assert (await store.load("s1")).output_token_ids == (11, 12)


async def test_a_session_that_the_store_lost_is_put_back_when_it_moves(store):
    seen = Seen()
    log = start(store, seen)
    log.append([10])
    await until(lambda: seen.lengths == [4])
    store._sessions.clear()
    assert await log.take_over(MOVED) == 2
    record = await store.load("s1")
    assert (record.output_token_ids, record.placement) == ((10,), MOVED)
    await log.finish(FinishReason.STOP)


async def test_a_session_of_another_owner_is_not_taken_over(store):
    seen = Seen()
    log = start(store, seen)
    store._sessions["s1"].owner = "c2"
    with pytest.raises(SessionConflictError) as caught:
        await log.take_over(MOVED)
    assert caught.value.reason == "LEASE_HELD"
    await log.finish(FinishReason.STOP)


async def test_a_log_that_was_lost_is_put_back_whole(store):
    seen = Seen()
    log = start(store, seen)
    log.append([10])
    await until(lambda: seen.lengths == [4])
    store.is_away = True
    log.append([11])
    await until(lambda: store.num_tries >= 2)
    store._sessions.clear()
    store.is_away = False
    await log.put_back()
    await log.put_back()  # twice is no harm
    assert (await store.load("s1")).output_token_ids == (10, 11)
    log.append([12])
    assert await log.finish(FinishReason.STOP)
    assert (await store.load("s1")).output_token_ids == (10, 11, 12)
    store._sessions.clear()
    await log.put_back()
    record = await store.load("s1")
    assert (record.output_token_ids, record.finish_reason) == ((10, 11, 12), FinishReason.STOP)
    assert seen.errors == []


async def test_an_end_that_the_store_lost_is_written_again_before_the_log_is_closed(store):
    seen = Seen()
    log = start(store, seen)
    log.append([10, 11, 12])
    await until(lambda: seen.lengths == [6])
    del store._sessions["s1"].token_ids[4:]
    assert await log.finish(FinishReason.STOP)
    record = await store.load("s1")
    assert (record.output_token_ids, record.finish_reason) == ((10, 11, 12), FinishReason.STOP)
    assert seen.errors == []


async def test_an_owner_of_the_same_epoch_ends_the_log(store):
    seen = Seen()
    log = start(store, seen)
    store._sessions["s1"].owner = "c3"
    log.append([10])
    await until(lambda: bool(seen.errors))
    assert seen.errors[0].reason == "STALE_EPOCH"
    with pytest.raises(SessionConflictError) as caught:
        await log.put_back()
    assert caught.value.reason == "STALE_EPOCH"
    assert not await log.finish(FinishReason.STOP)
    record = await store.load("s1")
    assert (record.output_token_ids, record.finish_reason) == ((), None)


async def test_a_session_that_is_left_open_can_be_claimed(store):
    log = start(store, Seen(), LogPace(60.0, 30.0, 5.0))
    log.append([10])
    await log.leave_open()
    record = await store.claim("s1", owner="c2", steals=True)
    assert (record.output_token_ids, record.finish_reason) == ((10,), None)


async def test_an_abandoned_log_writes_nothing_more(store):
    log = start(store, Seen())
    await log.abandon()
    log.append([10])
    assert not await log.finish(FinishReason.STOP)
    with pytest.raises(SessionConflictError):
        await log.take_over(SessionPlacement("t2", "i", "t2:1"))
    record = await store.load("s1")
    assert (record.output_token_ids, record.finish_reason, record.epoch) == ((), None, 1)
