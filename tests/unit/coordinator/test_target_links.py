import asyncio
from dataclasses import replace

import pytest
from tests.unit.coordinator.support import a_spec, a_target, output, until
from tests.waiting import on_virtual_time

from treedraft.coordinator.failures import error_of, is_movable
from treedraft.coordinator.target_links import TargetLink, TargetLinks
from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.core.exchange import LogAcknowledgement
from treedraft.core.session import FinishReason, SessionFailure


class FakeStream:
    def __init__(self, max_starts=99):
        self.frames = []
        self.inbox = asyncio.Queue()
        self.is_closed = False
        self.too_large = set()

    async def send(self, frame):
        if any(spec.session_id in self.too_large for spec in frame.starts):
            raise InvalidRequestError("too large", reason="MESSAGE_TOO_LARGE")
        self.frames.append(frame)

    async def receive(self):
        item = await self.inbox.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def close(self):
        self.is_closed = True


class FakeConnection:
    def __init__(self, error=None):
        self.stream = FakeStream()
        self.error = error
        self.is_closed = False
        self.coordinator_id = ""

    async def run_sessions(self, coordinator_id):
        self.coordinator_id = coordinator_id
        if self.error:
            raise self.error
        return self.stream

    async def close(self):
        self.is_closed = True


class Sink:
    def __init__(self):
        self.outputs = []
        self.errors = []

    def deliver(self, item):
        self.outputs.append(item)

    def fail(self, error):
        self.errors.append(error)


@pytest.fixture
async def setup():
    connection = FakeConnection()
    link = TargetLink(a_target(), connection, "c1")
    task = asyncio.create_task(link.run())
    yield link, connection
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert connection.is_closed
    assert connection.stream.is_closed


async def test_what_is_said_in_one_turn_leaves_as_one_frame(setup):
    link, connection = setup
    sinks = [Sink(), Sink()]
    link.start(a_spec("s1"), sinks[0])
    link.start(a_spec("s2"), sinks[1])
    link.acknowledge("s1", 4)
    link.acknowledge("s1", 6)
    await until(lambda: bool(connection.stream.frames))
    (frame,) = connection.stream.frames
    assert [spec.session_id for spec in frame.starts] == ["s1", "s2"]
    assert frame.acknowledgements == (LogAcknowledgement("s1", 6),)
    assert connection.coordinator_id == "c1"


async def test_outputs_go_to_their_sessions_and_end_them(setup):
    link, connection = setup
    one, two = Sink(), Sink()
    specs = a_spec("s1"), a_spec("s2")
    link.start(specs[0], one)
    link.start(specs[1], two)
    connection.stream.inbox.put_nowait(
        (output(specs[0], 0, [5]), output(specs[1], 0, [6], FinishReason.STOP))
    )
    await until(lambda: bool(two.outputs))
    assert [item.token_ids for item in one.outputs] == [(5,)]
    assert link.num_sessions == 1
    link.acknowledge("s2", 4)  # of no interest to the target any more
    link.acknowledge("s1", 4)
    await until(lambda: any(frame.acknowledgements for frame in connection.stream.frames))
    told = [a for frame in connection.stream.frames for a in frame.acknowledgements]
    assert told == [LogAcknowledgement("s1", 4)]


async def test_a_cancelled_session_hears_nothing_more(setup):
    link, connection = setup
    sink = Sink()
    link.start(a_spec("s1"), sink)
    await until(lambda: bool(connection.stream.frames))
    link.cancel("s1")
    link.cancel("s1")
    other = Sink()
    link.start(a_spec("s2"), other)
    late, awaited = output(a_spec("s1"), 0, [5]), output(a_spec("s2"), 0, [6])
    connection.stream.inbox.put_nowait((late, awaited))
    await until(lambda: bool(other.outputs))
    assert sink.outputs == []
    assert [frame.cancels for frame in connection.stream.frames if frame.cancels] == [("s1",)]


async def test_a_session_cancelled_before_it_left_is_never_sent(setup):
    link, connection = setup
    link.start(a_spec("s1"), Sink())
    link.cancel("s1")
    link.start(a_spec("s2"), Sink())
    await until(lambda: bool(connection.stream.frames))
    (frame,) = connection.stream.frames
    assert [spec.session_id for spec in frame.starts] == ["s2"]
    assert frame.cancels == ()


async def test_a_session_that_is_resumed_here_is_not_hit_by_the_end_of_its_older_self(setup):
    link, connection = setup
    old, new = a_spec("s1"), a_spec("s1", epoch=2)
    link.start(old, Sink())
    await until(lambda: bool(connection.stream.frames))
    link.cancel("s1")
    sink = Sink()
    link.start(new, sink)
    await until(lambda: len(connection.stream.frames) == 2)
    assert connection.stream.frames[1].starts == (new,)
    assert connection.stream.frames[1].cancels == ()
    awaited = output(new, 0, [6])
    connection.stream.inbox.put_nowait((output(old, 0, [5], FinishReason.CANCELLED), awaited))
    await until(lambda: bool(sink.outputs))
    assert sink.outputs == [awaited]
    assert link.num_sessions == 1


@pytest.mark.parametrize("is_failure", [False, True])
async def test_a_cancellation_that_nobody_here_asked_for_is_a_lost_target(setup, is_failure):
    link, connection = setup
    spec, sink = a_spec("s1"), Sink()
    link.start(spec, sink)
    said = output(spec, 0, [5], FinishReason.CANCELLED)
    if is_failure:
        said = replace(said, finish=None, failure=SessionFailure("CANCELLED", "gave up"))
    connection.stream.inbox.put_nowait((said,))
    await until(lambda: bool(sink.outputs))
    (told,) = sink.outputs
    assert (told.finish, told.token_ids) == (None, ())
    assert is_movable(error_of(told.failure))
    assert link.num_sessions == 0


async def test_a_session_too_large_for_a_message_fails_alone(setup):
    link, connection = setup
    connection.stream.too_large.add("s1")
    big, small = Sink(), Sink()
    link.start(a_spec("s1"), big)
    link.start(a_spec("s2"), small)
    await until(lambda: bool(big.errors) and bool(connection.stream.frames))
    assert big.errors[0].reason == "MESSAGE_TOO_LARGE"
    assert [spec.session_id for spec in connection.stream.frames[0].starts] == ["s2"]
    assert small.errors == []
    assert link.is_open


@pytest.mark.parametrize("end", [None, UnavailableError("connection reset")])
async def test_a_broken_stream_fails_its_sessions(setup, end):
    link, connection = setup
    sink = Sink()
    link.start(a_spec("s1"), sink)
    connection.stream.inbox.put_nowait(end)
    await until(lambda: bool(sink.errors))
    assert sink.errors[0].reason == "TARGET_LOST"
    assert "t1" in sink.errors[0].message
    assert not link.is_open
    with pytest.raises(UnavailableError):
        link.start(a_spec("s2"), Sink())


async def test_an_unreachable_target_fails_sessions_started_before():
    links = TargetLinks(lambda _: FakeConnection(UnavailableError("nobody there")), "c1")
    sink = Sink()
    links.get(a_target()).start(a_spec("s1"), sink)
    await until(lambda: bool(sink.errors))
    assert sink.errors[0].reason == "TARGET_LOST"
    await links.close()


async def test_links_are_shared_replaced_when_broken_and_closed_when_idle():
    dialled = []

    def dial(endpoint):
        dialled.append((endpoint, FakeConnection()))
        return dialled[-1][1]

    links = TargetLinks(dial, "c1")
    first = links.get(a_target())
    assert links.get(a_target()) is first
    restarted = links.get(a_target(incarnation="second"))
    assert restarted is not first
    sink = Sink()
    first.start(a_spec("s1"), sink)
    await links.retain([])
    assert first.is_open  # a session is on it
    assert not restarted.is_open
    await until(lambda: bool(dialled[0][1].stream.frames))
    dialled[0][1].stream.inbox.put_nowait(None)
    await until(lambda: bool(sink.errors))
    second = links.get(a_target())
    assert second is not first
    assert [endpoint for endpoint, _ in dialled] == ["t1:1"] * 3
    await links.close()
    assert all(connection.is_closed for _, connection in dialled)


async def test_closing_fails_what_still_runs():
    links = TargetLinks(lambda _: FakeConnection(), "c1")
    link, sink = links.get(a_target()), Sink()
    link.start(a_spec("s1"), sink)
    await asyncio.sleep(0)
    await links.close()
    assert sink.errors[0].reason == "TARGET_LOST"


async def run_silent(connection, **options):
    """Run a link with little patience until it gives up; return what its session heard."""
    link, sink = TargetLink(a_target(), connection, "c1", silence_seconds=0.1, **options), Sink()
    link.start(a_spec("s1"), sink)
    await link.run()
    return sink


@on_virtual_time
async def test_a_target_without_a_sign_of_life_is_given_up():
    reasons, connection = [], FakeConnection()
    sink = await run_silent(connection, on_failure=reasons.append)
    assert [error.reason for error in sink.errors] == ["TARGET_SILENT"]
    assert reasons == ["TARGET_SILENT"]
    assert connection.is_closed
    assert connection.stream.is_closed


@on_virtual_time
async def test_a_target_that_cannot_be_reached_in_time_is_given_up():
    class Frozen(FakeConnection):
        async def run_sessions(self, coordinator_id):
            await asyncio.Event().wait()

    sink = await run_silent(Frozen())
    assert [error.reason for error in sink.errors] == ["TARGET_SILENT"]


@on_virtual_time
async def test_signs_of_life_keep_a_stream():
    connection = FakeConnection()
    link, sink = TargetLink(a_target(), connection, "c1", silence_seconds=0.4), Sink()
    link.start(a_spec("s1"), sink)
    running = asyncio.create_task(link.run())
    for _ in range(12):
        await asyncio.sleep(0.3)
        connection.stream.inbox.put_nowait(())
    assert not running.done()
    assert sink.errors == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
