import asyncio
from types import SimpleNamespace

from tests.waiting import PATIENCE_SECONDS

from treedraft.coordinator.caretaker import Caretaker


class QuietSession:
    """A session that goes on and on; remembers how it was left."""

    def __init__(self, session_id):
        self.spec = SimpleNamespace(session_id=session_id)
        self.is_read = asyncio.Event()
        self.ending = asyncio.get_running_loop().create_future()

    async def events(self, time_left):
        self.is_read.set()
        await asyncio.Event().wait()
        yield

    async def close(self):
        self.ending.set_result("closed")

    async def leave_open(self):
        self.ending.set_result("left open")


def a_request(session, *, may_be_resumed=True):
    return SimpleNamespace(
        session=session,
        may_be_resumed=may_be_resumed,
        error=None,
        time_left=lambda: None,
    )


async def test_a_session_for_whose_reader_there_is_no_room_can_be_resumed_from_the_log():
    keeper = Caretaker({}, grace_seconds=60.0, max_kept=1)
    first, second = QuietSession("first"), QuietSession("second")
    keeper.take(a_request(first))
    await asyncio.wait_for(first.is_read.wait(), PATIENCE_SECONDS)
    keeper.take(a_request(second))
    assert await asyncio.wait_for(second.ending, PATIENCE_SECONDS) == "left open"
    assert not first.ending.done()
    await keeper.close()
    assert first.ending.result() == "left open"


async def test_without_grace_a_session_ends_with_its_stream():
    keeper = Caretaker({}, grace_seconds=0.0, max_kept=1)
    session = QuietSession("only")
    keeper.take(a_request(session))
    assert await asyncio.wait_for(session.ending, PATIENCE_SECONDS) == "closed"
    await keeper.close()


async def test_a_session_that_nobody_may_come_back_for_ends_at_once():
    keeper = Caretaker({}, grace_seconds=60.0, max_kept=1)
    session = QuietSession("only")
    keeper.take(a_request(session, may_be_resumed=False))
    assert await asyncio.wait_for(session.ending, PATIENCE_SECONDS) == "closed"
    await keeper.close()


class BrokenSession(QuietSession):
    """A session whose reading runs into a bug."""

    async def events(self, time_left):
        raise ZeroDivisionError("a bug")
        yield


async def test_a_session_whose_reading_breaks_down_is_closed_all_the_same():
    keeper = Caretaker({}, grace_seconds=60.0, max_kept=1)
    session = BrokenSession("only")
    keeper.take(a_request(session))
    assert await asyncio.wait_for(session.ending, PATIENCE_SECONDS) == "closed"
    assert keeper.num_parked == 0
    await keeper.close()
