"""Both ends of a stream tell by number what they would tell by name, and nothing else."""

import pytest

from treedraft.core.errors import InvalidRequestError
from treedraft.core.exchange import CoordinatorFrame, LogAcknowledgement
from treedraft.core.growth import TokenSource
from treedraft.core.logprobs import TokenLogprobs
from treedraft.core.sampling import SamplingParameters
from treedraft.core.session import (
    FinishReason,
    SessionFailure,
    SessionFinish,
    SessionOutput,
    SessionSpec,
    SessionStatistics,
)
from treedraft.rpc import convert
from treedraft.rpc.numbered_sessions import INVALID_COLUMNS, ServedSessions, StartedSessions
from treedraft.v1 import target_service_pb2 as pb

TARGET, LOOKUP = TokenSource.TARGET, TokenSource.LOOKUP
FINISH = SessionFinish(FinishReason.STOP, SessionStatistics(rounds=3))


def spec(name, epoch=1):
    return SessionSpec(name, epoch, (1, 2, 3), 3, SamplingParameters(seed=1))


def output(name, *token_ids, epoch=1, base_length=3, **more):
    sources = (LOOKUP,) * (len(token_ids) - 1) + (TARGET,) if token_ids else ()
    return SessionOutput(name, epoch, base_length, token_ids, sources, **more)


def over_the_wire(message):
    return type(message).FromString(message.SerializeToString())


class Stream:
    """Both books of one stream."""

    def __init__(self, *starts):
        self.started, self.served = StartedSessions(), ServedSessions()
        self.say(starts=starts)

    def say(self, **frame):
        self.request = over_the_wire(self.started.frame_to_proto(CoordinatorFrame(**frame)))
        return self.served.frame_from_proto(self.request)

    def tell(self, *outputs):
        self.response = over_the_wire(self.served.outputs_to_proto(outputs))
        return self.started.outputs_from_proto(self.response)


def test_a_step_of_many_sessions_is_told_in_columns():
    names = [f"session-{index:016}" for index in range(64)]
    stream = Stream(*map(spec, names))
    told = [output(name, index) for index, name in enumerate(names)]
    assert stream.tell(*told) == tuple(told)
    assert not stream.response.outputs
    assert stream.response.ByteSize() <= 5 * 64


def test_several_tokens_and_their_sources_stay_with_their_session():
    stream = Stream(spec("a"), spec("b"), spec("c"))
    told = [output("b", 5), output("a", 7, 8, 9, base_length=40), output("c", 1, 2)]
    assert stream.tell(*told) == tuple(told)


def test_ends_and_what_few_want_are_told_in_full_after_the_tokens():
    stream = Stream(spec("a"), spec("b"), spec("c"))
    logprobs = (TokenLogprobs(-0.5, ()),)
    told = (
        output("a", 4),
        output("b", 4, finish=FINISH),
        output("c", 4, logprobs=logprobs),
    )
    assert stream.tell(told[1], told[0], told[2]) == told
    assert [one.session_id for one in stream.response.outputs] == ["b", "c"]
    failed = output("a", failure=SessionFailure("PASS_FAILED", "the pass failed"))
    assert stream.tell(failed) == (failed,)


def test_a_coordinator_that_gives_no_numbers_is_told_by_name():
    served = ServedSessions()
    frame = CoordinatorFrame(starts=(spec("a"),))
    assert served.frame_from_proto(convert.coordinator_frame_to_proto(frame)) == frame
    message = served.outputs_to_proto([output("a", 4)])
    assert convert.outputs_from_proto(message) == (output("a", 4),)


def test_a_target_that_knows_no_numbers_is_understood_and_spoken_to_by_name():
    started = StartedSessions()
    started.frame_to_proto(CoordinatorFrame(starts=(spec("a"),)))
    message = convert.outputs_to_proto([output("a", 4)])
    assert started.outputs_from_proto(message) == (output("a", 4),)
    known = (LogAcknowledgement("a", 4),)
    request = started.frame_to_proto(CoordinatorFrame(acknowledgements=known))
    assert convert.coordinator_frame_from_proto(request).acknowledgements == known


def test_acknowledgements_go_by_number_once_the_target_did():
    stream = Stream(spec("a"), spec("b"))
    known = (LogAcknowledgement("a", 4), LogAcknowledgement("b", 9))
    assert stream.say(acknowledgements=known).acknowledgements == known
    assert len(stream.request.acknowledgements) == 2
    stream.tell(output("a", 4))
    assert stream.say(acknowledgements=known).acknowledgements == known
    assert not stream.request.acknowledgements
    stream.tell(output("b", finish=FINISH))
    left = stream.say(acknowledgements=known).acknowledgements
    assert set(left) == set(known)  # the engine knows whether there is such a session
    assert [one.session_id for one in stream.request.acknowledgements] == ["b"]


def test_what_a_cancelled_session_still_says_is_left_out():
    stream = Stream(spec("a"), spec("b"))
    late = over_the_wire(stream.served.outputs_to_proto([output("a", 4), output("b", 5)]))
    stream.say(cancels=("a",))
    assert stream.started.outputs_from_proto(late) == (output("b", 5),)


def test_a_later_epoch_has_another_number():
    stream = Stream(spec("a"))
    late = over_the_wire(stream.served.outputs_to_proto([output("a", 4)]))
    stream.say(starts=(spec("a", epoch=2),))
    assert stream.started.outputs_from_proto(late) == ()
    assert stream.tell(output("a", 4)) == (output("a", 4),)  # by name: its number is gone
    again = output("a", 4, epoch=2)
    assert stream.tell(again) == (again,)
    assert not stream.response.outputs
    # The end of the old epoch leaves the number of the new one alone.
    stream.tell(output("a", failure=SessionFailure("SESSION_CONFLICT", "a newer owner")))
    assert stream.tell(again) == (again,)
    assert not stream.response.outputs


def test_books_forget_what_has_ended():
    stream = Stream(spec("a"), spec("b"), spec("c"))
    stream.tell(output("a", 4), output("b", 4))
    stream.tell(output("a", finish=FINISH))
    stream.say(cancels=("b",))
    stream.started.forget(["c"])
    assert not stream.started._sessions
    assert not stream.started._numbers
    assert list(stream.served._numbers) == ["c"]
    assert len(stream.served._session_ids) == 1


@pytest.mark.parametrize(
    "columns",
    [
        {"base_lengths": [3]},
        {"counts": [1]},
        {"counts": [2, 1]},
        {"token_ids": [1, 2, 3]},
        {"sources": convert.sources_to_proto([TARGET])},
    ],
)
def test_columns_that_do_not_fit_are_refused(columns):
    stream = Stream(spec("a"), spec("b"))
    stream.tell(output("a", 4), output("b", 5))
    whole = {
        name: getattr(stream.response.tokens, name)
        for name in ("session_numbers", "base_lengths", "counts", "token_ids", "sources")
    }
    broken = pb.RunSessionsResponse(tokens=pb.NumberedTokens(**whole | columns))
    with pytest.raises(InvalidRequestError) as caught:
        stream.started.outputs_from_proto(broken)
    assert caught.value.reason == INVALID_COLUMNS


def test_acknowledgements_that_do_not_fit_are_refused():
    numbered = pb.NumberedAcknowledgements(session_numbers=[1, 2], logged_lengths=[3])
    with pytest.raises(InvalidRequestError) as caught:
        ServedSessions().frame_from_proto(pb.RunSessionsRequest(numbered=numbered))
    assert caught.value.reason == INVALID_COLUMNS
