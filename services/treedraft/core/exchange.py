"""Frames of the two multiplexed streams, as values.

Target and drafter exchange `TargetFrame` and `DraftFrame`; coordinator and
target exchange `CoordinatorFrame` and tuples of `SessionOutput`. Each side
sends at most one frame per engine step, whatever the number of sessions in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from treedraft.core.errors import IncompatiblePeerError
from treedraft.core.growth import Growth
from treedraft.core.session import DraftSpec, SessionSpec

PROTOCOL_VERSION = 2
"""Since 2, drafters send scores as whole steps."""
MIN_PROTOCOL_VERSION = 1


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is speaking; the first thing each side says."""

    worker_id: str
    incarnation: str
    tokenizer_hash: str
    vocab_size: int
    model: str
    protocol_version: int = PROTOCOL_VERSION
    min_protocol_version: int = MIN_PROTOCOL_VERSION

    def check_peer(self, peer: "Hello") -> None:
        """Raise IncompatiblePeerError unless the two can work together.

        An empty tokenizer hash (a drafter that copies ids only) fits all. The
        vocabulary size is informative: a padded embedding is no mismatch.
        """
        if (
            peer.protocol_version < self.min_protocol_version
            or self.protocol_version < peer.min_protocol_version
        ):
            raise IncompatiblePeerError(
                f"{peer.worker_id} speaks protocol {peer.protocol_version}, "
                f"{self.worker_id} speaks {self.protocol_version}",
                reason="PROTOCOL_MISMATCH",
            )
        both_known = self.tokenizer_hash and peer.tokenizer_hash
        if both_known and self.tokenizer_hash != peer.tokenizer_hash:
            raise IncompatiblePeerError(
                f"tokenizers differ: {self.model} has {self.tokenizer_hash[:12]}, "
                f"{peer.model} has {peer.tokenizer_hash[:12]}",
                reason="TOKENIZER_MISMATCH",
            )


@dataclass(frozen=True, slots=True)
class SessionOpen:
    """A session to draft for, under its number on this stream."""

    session_number: int
    spec: DraftSpec


@dataclass(frozen=True, slots=True)
class Commit:
    """Tokens of one session that became final after `base_length` others."""

    session_number: int
    base_length: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Economics:
    """What drafts are worth to a target at present, both in microseconds.

    `token_us` is what a token takes it, over all sessions, 0 if unknown; `row_us`
    is what another drafted node adds to a pass.
    """

    token_us: int = 0
    row_us: int = 0

    @property
    def row_price(self) -> float:
        """What a node costs in tokens: one that survives less often is never verified."""
        return self.row_us / self.token_us if self.token_us else 0.0


UNKNOWN_ECONOMICS = Economics()


@dataclass(frozen=True, slots=True)
class SharedTokenizer:
    """What a drafter needs to follow grammars: the tokenizer, and what ends a text."""

    tokenizer_json: str
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TargetFrame:
    """One frame from target to drafter; `pauses` are sessions not worth drafting for."""

    hello: Hello | None = None
    opens: Sequence[SessionOpen] = ()
    commits: Sequence[Commit] = ()
    closes: Sequence[int] = ()
    credit_nodes: int = 0
    economics: Economics = UNKNOWN_ECONOMICS
    pauses: Sequence[int] = ()
    tokenizer: SharedTokenizer | None = None


@dataclass(frozen=True, slots=True)
class ReopenRequest:
    """The drafter missed something of a session and wants it opened afresh."""

    session_number: int
    known_length: int


@dataclass(frozen=True, slots=True)
class SessionRefusal:
    """The drafter will not draft for a session."""

    session_number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing follows for a session until something follows these `base_length` tokens."""

    session_number: int
    base_length: int


@dataclass(frozen=True, slots=True)
class DraftFrame:
    """One frame from drafter to target."""

    hello: Hello | None = None
    growths: Sequence[Growth] = ()
    reopens: Sequence[ReopenRequest] = ()
    refusals: Sequence[SessionRefusal] = ()
    rests: Sequence[Rest] = ()


@dataclass(frozen=True, slots=True)
class LogAcknowledgement:
    """The session log holds this much of a session, prompt included."""

    session_id: str
    logged_length: int


@dataclass(frozen=True, slots=True)
class CoordinatorFrame:
    """One frame from coordinator to target."""

    coordinator_id: str = ""
    starts: Sequence[SessionSpec] = ()
    cancels: Sequence[str] = ()
    acknowledgements: Sequence[LogAcknowledgement] = ()
