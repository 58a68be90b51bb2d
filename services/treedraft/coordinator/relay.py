"""Carries one session's tokens from its target to the client and into the log.

Under the coupled rule tokens are shown as they come and logged behind the
stream: were they lost, they would come out the same again. Under rejection
sampling they would not, so there they are shown only once the log has them.

The reader takes all that is there at once, so a slow one costs no more memory
than the text itself; and since the log is acknowledged no further than the
reader's place plus a bound, the target pauses a session that nobody reads.

A session may come from one target after the other. What the first one said
stays and is logged; what it still says after `leave` belongs to an epoch that
nobody listens to.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, repeat

from treedraft.coordinator.failures import error_of
from treedraft.coordinator.pieces import TextPieces
from treedraft.coordinator.relayed_counts import RelayedCounts
from treedraft.coordinator.session_log import SessionLog
from treedraft.coordinator.text_output import TextOutput
from treedraft.core.errors import (
    CancelledError,
    TokensMismatchError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.generation import Delta, ResumeQuery
from treedraft.core.growth import TokenSource
from treedraft.core.logprobs import TokenLogprobs
from treedraft.core.sampling import Verification
from treedraft.core.session import (
    RoundReport,
    SessionFinish,
    SessionOutput,
    SessionSpec,
    SessionStatistics,
)

# Rounds that a watching reader may leave unread; of more the oldest are dropped.
_MAX_UNREAD_ROUNDS = 256
# A text whose reader was away for longer than that is not marked: the marks of one
# message are bounded.
_MAX_MARKED_CHARACTERS = 65536


class SessionRelay:
    """One session between target, log and client; a sink of its target's stream."""

    def __init__(
        self,
        spec: SessionSpec,
        text: TextOutput,
        *,
        acknowledge: Callable[[int], None],
        on_tokens: Callable[[int], None],
        max_unread_tokens: int,
        pieces: TextPieces | None = None,
    ) -> None:
        """Relay the tokens after those of `spec`.

        Args:
            spec: the session as the target got it.
            text: makes text of its tokens.
            acknowledge: tells the target how much the log holds.
            on_tokens: told how many tokens arrive, as they do.
            max_unread_tokens: how far the target may run ahead of the reader.
            pieces: deals text out to its tokens, for a reader who watches.
        """
        self._spec = spec
        self._epoch: int | None = spec.epoch
        self._counts = RelayedCounts()
        self._text = text
        self._pieces = pieces
        self._acknowledge = acknowledge
        self._on_tokens = on_tokens
        self._max_unread_tokens = max_unread_tokens
        self._base_length = len(spec.token_ids)
        self._num_before = len(spec.token_ids) - spec.prompt_length
        self._token_ids: list[int] = []
        self._sources: list[TokenSource] = []
        self._logprobs: list[TokenLogprobs] = []
        self._rounds: deque[RoundReport] = deque(maxlen=_MAX_UNREAD_ROUNDS)
        self._num_shown = 0
        self._num_held = 0
        self._num_logged = 0
        self._num_acknowledged = 0
        self._finish: SessionFinish | None = None
        self._error: TreedraftError | None = None
        self._changed = asyncio.Event()
        self._log: SessionLog | None = None
        self._is_text_done = False
        self._held: ResumeQuery | None = None

    def write_to(self, log: SessionLog) -> None:
        """Log all tokens from now on."""
        self._log = log

    def deliver(self, output: SessionOutput) -> None:
        """Take an output of the target; one of another epoch is ignored."""
        if output.epoch != self._epoch or self._is_over:
            return
        if output.failure is None and output.base_length != self._base_length + len(
            self._token_ids
        ):
            self.fail(UnavailableError("the target skipped tokens", reason="OUTPUT_GAP"))
            return
        if output.token_ids:
            self._on_tokens(len(output.token_ids))
            self._counts.add(output)
            self._token_ids.extend(output.token_ids)
            self._sources.extend(output.sources)
            self._logprobs.extend(output.logprobs)
            if self._log is not None:
                self._log.append(output.token_ids)
        if output.round is not None:
            self._rounds.append(output.round)
        if output.finish is not None:
            statistics = self._counts.complete(output.finish.statistics)
            self._finish = replace(output.finish, statistics=statistics)
        if output.failure is not None:
            self._error = error_of(output.failure)
        self._changed.set()

    def fail(self, error: TreedraftError) -> None:
        """End the session with an error, after the tokens that may be shown.

        A text that is complete and may be shown whole stays a good one.
        """
        is_whole = self._finish is not None and self._num_visible == len(self._token_ids)
        if self._error is None and not is_whole:
            self._error = error
            self._changed.set()

    def restore(self, output_token_ids: Sequence[int], held: ResumeQuery) -> None:
        """Go on after output that the log has; show what the reader does not hold.

        The reader may hold more than the log. Nothing is shown then until it
        was said again, and found to be the same.
        """
        self._token_ids.extend(output_token_ids)
        self._sources.extend([TokenSource.TARGET] * len(output_token_ids))
        self._num_logged = self._num_acknowledged = len(output_token_ids)
        self._num_shown = self._num_held = held.num_tokens
        self._held = held

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and output so far."""
        return (*self._spec.token_ids, *self._token_ids)

    @property
    def error(self) -> TreedraftError | None:
        """What the session failed with, as long as that is not dealt with."""
        return self._error

    @property
    def counts(self) -> SessionStatistics:
        """What passed by so far."""
        return self._counts.so_far()

    def leave(self) -> None:
        """Listen to no target any more; an error that was told is dealt with."""
        self._epoch = None
        self._error = None
        self._counts.leave()

    def follow(self, epoch: int) -> None:
        """Listen to the target that goes on with the session under this epoch."""
        self._epoch = epoch

    def on_logged(self, length: int) -> None:
        """Learn how much of the session the log holds, prompt included."""
        self._num_logged = length - self._base_length
        self._acknowledge_log()
        self._changed.set()

    async def read(self, time_limit_seconds: float | None = None) -> Delta | SessionFinish:
        """Return what is new, and in the end the finish.

        Raises:
            TreedraftError: the session failed.
            CancelledError: nothing came within the time limit (DEADLINE_EXCEEDED).
        """
        try:
            async with asyncio.timeout(time_limit_seconds):
                while True:
                    delta = self._take()
                    if delta is not None:
                        return delta
                    if self._error is not None:
                        raise self._error
                    if self._finish is not None and self._num_shown == len(self._token_ids):
                        return self._finish
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise CancelledError(
                "the time for this session is up", reason="DEADLINE_EXCEEDED"
            ) from error

    @property
    def _is_over(self) -> bool:
        return self._finish is not None or self._error is not None

    @property
    def _num_visible(self) -> int:
        if self._spec.sampling.verification is Verification.REJECTION:
            return min(self._num_logged, len(self._token_ids))
        return len(self._token_ids)

    def _take(self) -> Delta | None:
        if not self._is_held_known():
            return None
        start, end = self._num_shown, self._num_visible
        text = self._text.push(self._token_ids[start:end])
        self._num_shown = end
        if start == end == len(self._token_ids) and self._finish and not self._is_text_done:
            # By itself, without tokens: a reader that resumes and has it knows it again.
            self._is_text_done = True
            text = self._text.finish()
        if start == end and not text:
            return None
        self._acknowledge_log()
        held, self._num_held = tuple(self._token_ids[: self._num_held]), 0
        return Delta(
            base_length=self._num_before + start,
            token_ids=tuple(self._token_ids[start:end]),
            sources=tuple(self._sources[start:end]),
            text=text,
            rounds=self._take_rounds(end),
            text_sources=self._sources_of(start, end, text),
            logprobs=tuple(self._logprobs[start:end]),
            held_token_ids=held,
        )

    def _sources_of(self, start: int, end: int, text: str) -> tuple[TokenSource, ...]:
        """Return where each character of a text came from, for a reader who watches."""
        if self._pieces is None:
            return ()
        pieces = self._pieces.push(self._token_ids[start:end], self._sources[start:end], text)
        marks = chain.from_iterable(repeat(piece.source, len(piece.text)) for piece in pieces)
        return tuple(marks) if len(text) <= _MAX_MARKED_CHARACTERS else ()

    def _take_rounds(self, num_visible: int) -> tuple[RoundReport, ...]:
        """Return the rounds of tokens that may be shown, and forget them."""
        reach, taken = self._base_length + num_visible, []
        while self._rounds and self._rounds[0].end_length <= reach:
            taken.append(self._rounds.popleft())
        return tuple(taken)

    def _is_held_known(self) -> bool:
        """Return whether what the reader holds was found to be the beginning of the text."""
        held = self._held
        if held is None:
            return True
        if self._num_visible < held.num_tokens and self._finish is None:
            return False
        if not held.begins(self._token_ids[: self._num_visible]):
            self._error = TokensMismatchError("the session has other tokens than those held")
            return False
        shown = self._text.push(self._token_ids[: held.num_tokens])
        self._sources_of(0, held.num_tokens, shown)
        self._held = None
        return True

    def _acknowledge_log(self) -> None:
        reach = min(self._num_logged, self._num_shown + self._max_unread_tokens)
        if reach > self._num_acknowledged:
            self._num_acknowledged = reach
            self._acknowledge(self._base_length + reach)
