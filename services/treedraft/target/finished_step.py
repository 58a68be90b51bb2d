"""A step that is over, as those who weigh what drafting costs and brings look at it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from treedraft.target.round import RoundOutcome
from treedraft.target.scheduler import SessionPass
from treedraft.target.session import TargetSession


@dataclass(frozen=True, slots=True)
class DraftedRound:
    """What a step with drafts did for one of the sessions that a drafter works for."""

    session: TargetSession
    num_nodes: int
    num_accepted: int


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step without prompts: sessions in it, tokens out of it, and where its time went.

    `load` is the number of sessions that the step was begun for, whether all of them took
    part or not; `drafted` are those of the step that a drafter works for.
    """

    load: int
    num_sessions: int
    num_tokens: int
    elapsed_ms: float
    pass_ms: float
    drafted: Sequence[DraftedRound] = ()

    @classmethod
    def of(
        cls,
        load: int,
        passes: Sequence[SessionPass],
        outcomes: Sequence[RoundOutcome],
        *,
        drafted: Collection[TargetSession],
        elapsed_ms: float,
        pass_ms: float,
    ) -> "FinishedStep":
        """Put together what passes and outcomes say of a step."""
        nodes_of = {one.session: one.tree.num_nodes for one in passes} if drafted else {}
        return cls(
            load=load,
            num_sessions=len(passes),
            num_tokens=sum(len(outcome.verdict.token_ids) for outcome in outcomes),
            elapsed_ms=elapsed_ms,
            pass_ms=pass_ms,
            drafted=[
                DraftedRound(
                    outcome.session,
                    nodes_of[outcome.session],
                    len(outcome.verdict.accepted),
                )
                for outcome in outcomes
                if outcome.session in drafted
            ],
        )
