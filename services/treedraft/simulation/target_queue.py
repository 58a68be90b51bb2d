"""One target: prompts in line, sessions that decode beside each other.

Between two events nothing changes but time: every decoding session gains tokens
at one rate, and the first prompt in line is worked off at another. So the state
is two clocks, in tokens, and the next event is where one of them reaches its
mark. Steps carry a chunk of the first prompt while there is one, as the real
engine's do.
"""

import heapq
import math
from dataclasses import dataclass, field

from treedraft.simulation.service_times import Round, ServiceTimes
from treedraft.target.prompt_order import WaitingPrompt, is_too_late, order_prompts

# As the target's own: however long the others' step gets, a prompt must get on.
_LEAST_CHUNK = 8
# Shares of sessions with drafts that are told apart.
_COVERAGES = 20


@dataclass(slots=True)
class Request:
    """One request on its way; instants in seconds, -1 while they have not come."""

    number: int
    arrival: float
    prompt: float
    output: float
    latest: float = math.inf  # when its first token is due
    left: float = 0.0  # of the prompt, where it is
    first_token: float = -1.0
    finished: float = -1.0
    num_moves: int = 0


@dataclass(frozen=True, slots=True)
class ChunkRule:
    """How many tokens of prompts a pass carries: the target's settings of these names."""

    prefill_chunk: int = 256
    max_stall_steps: float = 2.0

    def rows(self, times: ServiceTimes, num_decoding: int) -> int:
        """Return the prompt tokens in a pass beside so many decoding sessions."""
        if not num_decoding:
            return self.prefill_chunk
        limit = (1.0 + self.max_stall_steps) * times.pass_of(num_decoding)
        rows = math.floor(times.rows_within(limit)) - num_decoding
        return min(self.prefill_chunk, max(_LEAST_CHUNK, rows))


class RoundTable:
    """Rates by number of decoding sessions, share of them with drafts, chunk or none."""

    def __init__(self, times: ServiceTimes, chunks: ChunkRule | None = None) -> None:
        """Tabulate as asked for."""
        self._times = times
        self._chunks = chunks or ChunkRule()
        self._rates: dict[tuple[int, int, bool], tuple[float, float]] = {}
        self._best: dict[tuple[int, bool], Round] = {}

    def seconds_alone(self, prompt: float) -> float:
        """Return what a prompt takes on an empty target."""
        return prompt / self.rates(0, 0.0, has_chunk=True)[1]

    def best(self, num_decoding: int, *, has_chunk: bool) -> Round:
        """Return the best round of sessions that all have drafts."""
        key = (num_decoding, has_chunk)
        if key not in self._best:
            chunk = self._chunks.rows(self._times, num_decoding) if has_chunk else 0
            self._best[key] = self._times.best_round(num_decoding, chunk)
        return self._best[key]

    def rates(self, num_decoding: int, coverage: float, *, has_chunk: bool) -> tuple[float, float]:
        """Return tokens a second of each session, and prompt tokens a second.

        Args:
            num_decoding: sessions in the pass.
            coverage: share of them whose trees come in time, 0 to 1.
            has_chunk: whether a prompt is in line.
        """
        key = (num_decoding, round(coverage * _COVERAGES), has_chunk)
        found = self._rates.get(key)
        if found is None:
            found = self._rates[key] = self._work_out(num_decoding, key[1] / _COVERAGES, has_chunk)
        return found

    def _work_out(self, num_decoding: int, coverage: float, has_chunk: bool) -> tuple[float, float]:
        chunk = self._chunks.rows(self._times, num_decoding) if has_chunk else 0
        if not num_decoding:
            return 0.0, chunk / self._times.pass_of(chunk) if chunk else 0.0
        drafted = self.best(num_decoding, has_chunk=has_chunk)
        nodes, tokens = coverage * drafted.nodes, 1.0 + coverage * (drafted.tokens - 1.0)
        seconds = self._times.pass_of(num_decoding * (1.0 + nodes) + chunk)
        return tokens / seconds, chunk / seconds


@dataclass(slots=True)
class TargetQueue:
    """The work of one target."""

    table: RoundTable
    now: float
    max_sessions: int = 32
    version: int = 0
    line: list[Request] = field(default_factory=list)
    progress: float = 0.0
    decoding: list[tuple[float, int, Request]] = field(default_factory=list)
    kv_tokens: float = 0.0
    prompt_seconds: float = 0.0
    busy_seconds: float = 0.0
    num_expired: int = 0
    _coverage: float = 0.0
    # Tokens a second of a session and of a prompt; None until they are asked for anew.
    _speeds: tuple[float, float] | None = None

    @property
    def coverage(self) -> float:
        """Share of the sessions that have drafts."""
        return self._coverage

    def cover(self, coverage: float) -> bool:
        """Let so large a share of the sessions have drafts; return whether that changes rates."""
        is_other = round(coverage * _COVERAGES) != round(self._coverage * _COVERAGES)
        self._coverage = coverage
        if is_other:
            self._speeds = None
        return is_other

    @property
    def prompt_tokens(self) -> float:
        """Tokens of prompts that are still to be computed."""
        return sum([one.left if one.left > 0.0 else 0.0 for one in self.line])

    @property
    def has_chunk(self) -> bool:
        """Whether passes carry a prompt: there is one, and a place for its session."""
        return bool(self.line) and len(self.decoding) < self.max_sessions

    @property
    def num_sessions(self) -> int:
        """Sessions held, waiting ones included."""
        return len(self.line) + len(self.decoding)

    def add(self, request: Request, now: float) -> None:
        """Take in a request."""
        self.advance(now)
        request.left = request.prompt
        self.line.append(request)
        self.kv_tokens += request.prompt + request.output
        self._order_line(now)

    def advance(self, now: float) -> None:
        """Let time pass; no event may lie in between."""
        elapsed = now - self.now
        self.now = now
        if elapsed <= 0:
            return
        tokens, prompt = self._speeds or self._rates()
        self.progress += elapsed * tokens
        if self.line:
            self.busy_seconds += elapsed
            if len(self.decoding) < self.max_sessions:
                self.prompt_seconds += elapsed
                self.line[0].left -= elapsed * prompt
        elif self.decoding:
            self.busy_seconds += elapsed

    def next_event(self) -> float:
        """Return when a prompt is done or a session ends; infinite if nothing is held."""
        tokens, prompt = self._speeds or self._rates()
        when = math.inf
        if self.has_chunk:
            when = self.now + max(0.0, self.line[0].left) / prompt
        if self.decoding:
            left = max(0.0, self.decoding[0][0] - self.progress)
            when = min(when, self.now + left / tokens)
        return when

    def settle(self, now: float) -> list[Request]:
        """Do what is due at `now`; return the requests that ended."""
        self.advance(now)
        self._speeds = None
        if self.line and self.line[0].left <= 1e-6:
            request = self.line.pop(0)
            if request.first_token < 0:
                request.first_token = now
            mark = self.progress + request.output - 1.0
            heapq.heappush(self.decoding, (mark, request.number, request))
            self._order_line(now)
        ended = []
        while self.decoding and self.decoding[0][0] <= self.progress + 1e-6:
            request = heapq.heappop(self.decoding)[2]
            request.finished = now
            self.kv_tokens -= request.prompt + request.output
            ended.append(request)
        return ended

    def _order_line(self, now: float) -> None:
        """Put the prompts in order, and drop those that cannot be in time any more."""
        self._speeds = None
        if not self.line:
            return
        _, rate = self.table.rates(len(self.decoding), self._coverage, has_chunk=True)
        if len(self.line) == 1:  # nearly always: nothing to put in order
            self._drop_if_late(now, rate)
            return
        waiting = [
            WaitingPrompt(max(0.0, one.left) / rate, one.latest, one.first_token >= 0)
            for one in self.line
        ]
        order = order_prompts(now, waiting)
        for index in order.hopeless:
            self.kv_tokens -= self.line[index].prompt + self.line[index].output
            self.num_expired += 1
        self.line = [self.line[index] for index in order.line]

    def _drop_if_late(self, now: float, rate: float) -> None:
        [one] = self.line
        if one.first_token < 0 and is_too_late(now, max(0.0, one.left) / rate, one.latest):
            self.line.clear()
            self.kv_tokens -= one.prompt + one.output
            self.num_expired += 1

    def empty(self) -> list[Request]:
        """Give up everything held, as a dying node does; prompts grow by what was said."""
        moved = list(self.line)
        for mark, _, request in self.decoding:
            said = min(request.output - 1.0, max(0.0, request.output - 1.0 - mark + self.progress))
            request.prompt += said
            request.output -= said
            moved.append(request)
        for request in moved:
            request.num_moves += 1
        self.line.clear()
        self.decoding.clear()
        self.kv_tokens = 0.0
        self._speeds = None
        return moved

    def _rates(self) -> tuple[float, float]:
        """Return what holds until sessions come or go, or drafters do."""
        rates = self.table.rates(len(self.decoding), self._coverage, has_chunk=self.has_chunk)
        self._speeds = rates
        return rates
