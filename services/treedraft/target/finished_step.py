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
    """A step: sessions in it, tokens out of it, and where its time went.

    `load` is the number of sessions that the step was begun for, whether all of them took
    part or not; `num_sessions` those that got tokens; `drafted` those that a drafter works
    for. `num_prompt_rows` are rows of prompts beside, `num_passing` all sessions with a row;
    `num_missed` are tokens of texts that drafters were told to catch up with.
    """

    load: int
    num_sessions: int
    num_tokens: int
    elapsed_ms: float
    pass_ms: float
    drafted: Sequence[DraftedRound] = ()
    num_prompt_rows: int = 0
    num_passing: int = 0
    num_missed: int = 0

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
        num_missed: int = 0,
    ) -> "FinishedStep":
        """Put together what passes and outcomes say of a step."""
        nodes_of = {one.session: one.tree.num_nodes for one in passes} if drafted else {}
        return cls(
            load=load,
            num_sessions=len(outcomes),
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
            num_prompt_rows=sum(one.num_new for one in passes) - len(outcomes),
            num_passing=len(passes),
            num_missed=num_missed,
        )
