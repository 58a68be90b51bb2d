"""Sessions by number, so that a step of many is told in a few columns.

A frame with a message for each session costs both ends more than all else that they do
for a token: a name of 24 bytes, an epoch and five objects, each time. So a coordinator
gives each session that it starts a number, and a target that knows of numbers tells
tokens by them. Ends, failures and what only some sessions want are told in full, as
everything is to a coordinator that gave no number. A coordinator knows that a target
understands numbers once it has used them.

Each end of a stream holds one of these books; numbers live and die with sessions.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from treedraft.core.errors import InvalidRequestError
from treedraft.core.exchange import CoordinatorFrame, LogAcknowledgement
from treedraft.core.session import SessionOutput
from treedraft.rpc.convert import (
    coordinator_frame_from_proto,
    coordinator_frame_to_proto,
    outputs_from_proto,
    outputs_to_proto,
    sources_from_proto,
    sources_to_proto,
)
from treedraft.v1 import target_service_pb2 as pb

INVALID_COLUMNS = "INVALID_COLUMNS"


class StartedSessions:
    """The coordinator's book: gives numbers, and reads what is told by them."""

    def __init__(self) -> None:
        """Begin with a stream."""
        self._next_numbers = itertools.count(1)
        self._sessions: dict[int, tuple[str, int]] = {}  # id and epoch by number
        self._numbers: dict[str, int] = {}
        self._is_understood = False

    def frame_to_proto(self, frame: CoordinatorFrame) -> pb.RunSessionsRequest:
        """Return the wire form of a frame, with numbers for the sessions that it starts."""
        numbered = {
            self._numbers[one.session_id]: one.logged_length
            for one in (frame.acknowledgements if self._is_understood else ())
            if one.session_id in self._numbers
        }
        if numbered:
            named = [one for one in frame.acknowledgements if one.session_id not in self._numbers]
            frame = replace(frame, acknowledgements=named)
        message = coordinator_frame_to_proto(frame)
        if numbered:
            message.numbered.session_numbers.extend(numbered)
            message.numbered.logged_lengths.extend(numbered.values())
        for session_id in frame.cancels:
            self._forget(session_id)
        for start in message.starts:
            self._forget(start.session_id)
            start.session_number = number = next(self._next_numbers)
            self._sessions[number] = start.session_id, start.epoch
            self._numbers[start.session_id] = number
        return message

    def outputs_from_proto(self, message: pb.RunSessionsResponse) -> tuple[SessionOutput, ...]:
        """Return what became of the sessions; those that were cancelled are left out.

        Raises:
            InvalidRequestError: reason INVALID_COLUMNS, or as `convert.outputs_from_proto`.
        """
        named = outputs_from_proto(message)
        numbered: Iterable[SessionOutput] = ()
        if message.HasField("tokens"):
            self._is_understood = True
            numbered = self._told_by_number(message.tokens)
        told = (*numbered, *named)
        for output in named:
            number = self._numbers.get(output.session_id, 0)
            is_over = output.finish is not None or output.failure is not None
            if is_over and self._sessions.get(number) == (output.session_id, output.epoch):
                self._forget(output.session_id)
        return told

    def forget(self, session_ids: Iterable[str]) -> None:
        """Take numbers back: the frame that gave them could not be sent."""
        for session_id in session_ids:
            self._forget(session_id)

    def _told_by_number(self, columns: pb.NumberedTokens) -> Iterable[SessionOutput]:
        numbers = columns.session_numbers
        counts = columns.counts or [1] * len(numbers)
        token_ids, sources = tuple(columns.token_ids), sources_from_proto(columns.sources)
        is_even = len(numbers) == len(columns.base_lengths) == len(counts)
        if not is_even or not sum(counts) == len(token_ids) == len(sources):
            raise InvalidRequestError("columns differ in length", reason=INVALID_COLUMNS)
        end = 0
        for number, base_length, count in zip(numbers, columns.base_lengths, counts, strict=True):
            start, end = end, end + count
            if number in self._sessions:
                session_id, epoch = self._sessions[number]
                yield SessionOutput(
                    session_id, epoch, base_length, token_ids[start:end], sources[start:end]
                )

    def _forget(self, session_id: str) -> None:
        self._sessions.pop(self._numbers.pop(session_id, 0), None)


class ServedSessions:
    """The target's book: reads which numbers were given, and tells by them."""

    def __init__(self) -> None:
        """Begin with a stream."""
        self._numbers: dict[str, tuple[int, int]] = {}  # epoch and number by id
        self._session_ids: dict[int, str] = {}

    def frame_from_proto(self, message: pb.RunSessionsRequest) -> CoordinatorFrame:
        """Return a coordinator's frame; what is said of sessions that have ended is left out.

        Raises:
            InvalidRequestError: reason INVALID_COLUMNS, or as
                `convert.coordinator_frame_from_proto`.
        """
        frame = coordinator_frame_from_proto(message)
        for session_id in frame.cancels:
            self._forget(session_id)
        for start in message.starts:
            self._forget(start.session_id)
            if start.session_number:
                self._numbers[start.session_id] = start.epoch, start.session_number
                self._session_ids[start.session_number] = start.session_id
        if not message.HasField("numbered"):
            return frame
        numbers, lengths = message.numbered.session_numbers, message.numbered.logged_lengths
        if len(numbers) != len(lengths):
            raise InvalidRequestError("columns differ in length", reason=INVALID_COLUMNS)
        numbered = (
            LogAcknowledgement(self._session_ids[number], length)
            for number, length in zip(numbers, lengths, strict=True)
            if number in self._session_ids
        )
        return replace(frame, acknowledgements=(*frame.acknowledgements, *numbered))

    def outputs_to_proto(self, outputs: Sequence[SessionOutput]) -> pb.RunSessionsResponse:
        """Return the wire form of what became of the sessions."""
        numbers: list[int] = []
        numbered: list[SessionOutput] = []
        named: list[SessionOutput] = []
        for output in outputs:
            epoch, number = self._numbers.get(output.session_id, (0, 0))
            if not number or epoch != output.epoch:
                named.append(output)
            elif _is_tokens_alone(output):
                numbers.append(number)
                numbered.append(output)
            else:
                named.append(output)
                if output.finish is not None or output.failure is not None:
                    self._forget(output.session_id)
        message = outputs_to_proto(named)
        if numbers:
            message.tokens.CopyFrom(_columns(numbers, numbered))
        return message

    def _forget(self, session_id: str) -> None:
        _, number = self._numbers.pop(session_id, (0, 0))
        self._session_ids.pop(number, None)


def _is_tokens_alone(output: SessionOutput) -> bool:
    is_over = output.finish is not None or output.failure is not None
    return not is_over and output.round is None and not output.logprobs


def _columns(numbers: Sequence[int], outputs: Sequence[SessionOutput]) -> pb.NumberedTokens:
    counts = [len(output.token_ids) for output in outputs]
    return pb.NumberedTokens(
        session_numbers=numbers,
        base_lengths=[output.base_length for output in outputs],
        counts=counts if any(count != 1 for count in counts) else (),
        token_ids=[token_id for output in outputs for token_id in output.token_ids],
        sources=sources_to_proto([source for output in outputs for source in output.sources]),
    )
