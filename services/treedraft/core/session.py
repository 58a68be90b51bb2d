"""Sessions: what is asked, what comes out, what it took."""

from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

from treedraft.core.errors import InvalidRequestError
from treedraft.core.growth import ROOT, TokenSource
from treedraft.core.logprobs import TokenLogprobs, check_num_logprobs
from treedraft.core.sampling import (
    MAX_SPECULATED_NODES,
    SamplingParameters,
    SpeculationOptions,
    StoppingCriteria,
)
from treedraft.core.worker import DrafterAddress

MAX_REPORTED_NODES = MAX_SPECULATED_NODES
"""Nodes in the report of a round; no pass holds more of one session."""


class FinishReason(Enum):
    """Why a text ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """A session as a coordinator hands it to a target.

    `token_ids` is the prompt and, for a session that moves, the output so far;
    `prompt_length` tells them apart. `sampling.seed` is never None here.
    `epoch` is the fencing token that every output carries.
    """

    session_id: str
    epoch: int
    token_ids: tuple[int, ...]
    prompt_length: int
    sampling: SamplingParameters
    stopping: StoppingCriteria = field(default_factory=StoppingCriteria)
    speculation: SpeculationOptions = field(default_factory=SpeculationOptions)
    choice: int = 0
    tenant_salt: bytes = b""
    drafters: tuple[DrafterAddress, ...] = ()
    traceparent: str = ""
    time_limit_seconds: float | None = None
    watch_rounds: bool = False
    num_logprobs: int | None = None

    def __post_init__(self) -> None:
        """Check how many log-probabilities are wanted; None wants none at all."""
        check_num_logprobs(self.num_logprobs)


@dataclass(frozen=True, slots=True)
class DraftSpec:
    """A session as a target opens it at a drafter."""

    session_id: str
    token_ids: tuple[int, ...]
    prompt_length: int
    sampling: SamplingParameters
    speculation: SpeculationOptions
    choice: int = 0
    tenant_salt: bytes = b""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """Where the time of a round went, in milliseconds.

    Queue, forward, walk and commit follow each other and add up to the round;
    draft and wire run beside them.
    """

    draft: float = 0.0
    wire: float = 0.0
    queue: float = 0.0
    forward: float = 0.0
    walk: float = 0.0
    commit: float = 0.0


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What happened in one round, for those who watch.

    The first four arrays have an element per admitted node, parents first;
    `parents` holds node indices or ROOT. `accepted` are the nodes that became
    text, in order; `bonus_token_id` is None if the last of them ended it.
    `is_hit` is None where nobody drafts.
    """

    base_length: int
    parents: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    sources: tuple[TokenSource, ...] = ()
    accepted: tuple[int, ...] = ()
    bonus_token_id: int | None = None
    is_hit: bool | None = None
    drafted_nodes: int = 0
    late_nodes: int = 0
    times: RoundTimes = field(default_factory=RoundTimes)

    def __post_init__(self) -> None:
        """Refuse what no round can have been: reports cross the wire."""
        count = len(self.token_ids)
        if count > MAX_REPORTED_NODES:
            raise InvalidRequestError(f"a round has more than {MAX_REPORTED_NODES} nodes")
        if not len(self.parents) == len(self.scores) == len(self.sources) == count:
            raise InvalidRequestError("arrays of a round differ in length")
        if not all(ROOT <= parent < node for node, parent in enumerate(self.parents)):
            raise InvalidRequestError("a node of a round comes before its parent")
        if any(second <= first for first, second in pairwise((ROOT, *self.accepted, count))):
            raise InvalidRequestError("a round accepts nodes that are no path of its tree")

    @property
    def end_length(self) -> int:
        """Length of the session after the round, prompt included."""
        return self.base_length + len(self.accepted) + (self.bonus_token_id is not None)


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """Counts and times of one session; `round_ms` holds the means over its rounds.

    `accepted_lengths[i]` counts the rounds that accepted `i` drafted nodes, and
    `accepted_lengths_by_depth[d]` those of them whose tree was `d` deep, as far as
    their target could still say it.
    """

    rounds: int = 0
    emitted_tokens: int = 0
    drafted_nodes: int = 0
    admitted_nodes: int = 0
    accepted_nodes: int = 0
    hits: int = 0
    misses: int = 0
    dropped_nodes: int = 0
    first_token_ms: float = 0.0
    first_tokens: int = 0
    decode_ms: float = 0.0
    round_ms: RoundTimes = field(default_factory=RoundTimes)
    cached_prompt_tokens: int = 0
    preemptions: int = 0
    accepted_lengths: tuple[int, ...] = ()
    accepted_lengths_by_depth: tuple[tuple[int, ...], ...] = ()

    @property
    def tokens_per_round(self) -> float:
        """τ: mean tokens emitted per target pass, bonus included."""
        return self.emitted_tokens / self.rounds if self.rounds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed after the first tokens, those of one round; 0 if there are no others."""
        later_tokens = self.emitted_tokens - max(self.first_tokens, 1)
        if later_tokens < 1 or self.decode_ms <= 0.0:
            return 0.0
        return later_tokens / self.decode_ms * 1000.0


@dataclass(frozen=True, slots=True)
class SessionFailure:
    """A session that cannot go on; `reason` is stable, the message for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class SessionFinish:
    """A session that came to its end."""

    reason: FinishReason
    statistics: SessionStatistics


@dataclass(frozen=True, slots=True)
class SessionOutput:
    """New tokens of one session, its end, or both."""

    session_id: str
    epoch: int
    base_length: int
    token_ids: tuple[int, ...] = ()
    sources: tuple[TokenSource, ...] = ()
    finish: SessionFinish | None = None
    failure: SessionFailure | None = None
    round: RoundReport | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
