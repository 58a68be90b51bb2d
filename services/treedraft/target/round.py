"""One round: from the walk through a tree to the tokens that it makes final.

The functions here are pure over one session's part of a pass. A round reads:
lay out the rows (`pass_rows`), run the pass, draw at every node, walk the tree, commit. What
is made for each session and round is a named tuple: a third of a frozen
dataclass's price, at a load the larger part of it.
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import ROOT, TokenSource
from treedraft.core.logprobs import TokenLogprobs
from treedraft.core.session import FinishReason, RoundReport, RoundTimes
from treedraft.inference.block_pool import slots_of
from treedraft.target.scheduler import SessionPass
from treedraft.target.session import RoundClock, TargetSession
from treedraft.target.verification import Walk

_NO_MOVES: tuple[list[int], list[int]] = [], []
_TARGET_ONLY = (TokenSource.TARGET,)


class Verdict(NamedTuple):
    """What a round makes final for one session.

    `token_ids` are the emitted tokens with their `sources`; `accepted` are the
    indices of the drafted nodes among them.
    """

    token_ids: tuple[int, ...]
    sources: tuple[TokenSource, ...]
    accepted: tuple[int, ...]
    finish: FinishReason | None


@dataclass(slots=True)
class StepClock:
    """Moments of one step on the monotonic clock, in nanoseconds."""

    started: int = field(default_factory=lambda: time.monotonic_ns())
    forwarded: int = 0
    walked: int = 0
    committed: int = 0


class Round(NamedTuple):
    """One session between its walk and the end of the step.

    `is_hit` is None where nobody drafts; `moves` are KV slots, from and to; `clock` is what
    was measured of the round so far; `scores` are those of the admitted nodes, there only if
    somebody watches.
    """

    session_pass: SessionPass
    verdict: Verdict
    base_length: int
    is_hit: bool | None
    moves: tuple[list[int], list[int]]
    clock: RoundClock
    scores: tuple[float, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


class RoundOutcome(NamedTuple):
    """The tokens that a round made final for one session.

    `report` is there if the session is watched.
    """

    session: TargetSession
    base_length: int
    verdict: Verdict
    report: RoundReport | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


class StepTimes:
    """Where the time of a step went, for each of its sessions; most are equal."""

    def __init__(self, clock: StepClock) -> None:
        """Look at a step that is over."""
        self._clock = clock
        self._known: dict[tuple[int, int, int], RoundTimes] = {}

    def round(self, own: RoundClock) -> RoundTimes:
        """Return the parts of a round that ended with the step, in milliseconds."""
        key = own.ready_ns, own.draft_us, own.wire_us
        times = self._known.get(key)
        if times is None:
            times = self._known[key] = self._of(own)
        return times

    def _of(self, own: RoundClock) -> RoundTimes:
        clock = self._clock
        return RoundTimes(
            draft=own.draft_us / 1e3,
            wire=own.wire_us / 1e3,
            queue=max(0, clock.started - own.ready_ns) / 1e6,
            forward=(clock.forwarded - clock.started) / 1e6,
            walk=(clock.walked - clock.forwarded) / 1e6,
            commit=(clock.committed - clock.walked) / 1e6,
        )


def judge(session: TargetSession, tree: FlatTree, walk: Walk) -> Verdict:
    """Cut the walk at the token that ends the text, if one does."""
    if not walk.accepted:
        finish = session.stop_checker.push(walk.token_ids[0])
        return Verdict(walk.token_ids, _TARGET_ONLY, (), finish)
    sources = [*(tree.sources[index] for index in walk.accepted), TokenSource.TARGET]
    finish, count = None, 0
    while count < len(walk.token_ids) and finish is None:
        finish = session.stop_checker.push(walk.token_ids[count])
        count += 1
    return Verdict(
        token_ids=walk.token_ids[:count],
        sources=tuple(sources[:count]),
        accepted=walk.accepted[:count],
        finish=finish,
    )


def compaction(
    session: TargetSession, accepted: tuple[int, ...], block_size: int
) -> tuple[list[int], list[int]]:
    """Return source and destination slots that put the accepted path in its place.

    The slots of index `num_tokens + i` hold the drafted nodes; those of the
    path move to `num_tokens, num_tokens + 1, …`. Best path first: empty in the
    common case. To be called before the tokens are committed.
    """
    moves = [(node, place) for place, node in enumerate(accepted) if node != place]
    if not moves:
        return _NO_MOVES
    base = session.num_tokens
    stop = base + max(node for node, _ in moves) + 1
    slots = slots_of(session.blocks, block_size, base, stop)
    return [int(slots[node]) for node, _ in moves], [int(slots[place]) for _, place in moves]


def holds_bonus(session_pass: SessionPass, walk: Walk) -> bool:
    """Return whether the living tree foresaw the token that ended the walk."""
    tree, grown = session_pass.tree, session_pass.grown
    if session_pass.session.tree is not grown:
        return False  # dropped while the pass ran
    end = tree.node_ids[walk.accepted[-1]] if walk.accepted else ROOT
    return walk.token_ids[-1] in grown.children(end)


def node_scores(session_pass: SessionPass) -> tuple[float, ...]:
    """Return the scores of the admitted nodes; to be called before the root moves."""
    return tuple(session_pass.grown.score(node_id) for node_id in session_pass.tree.node_ids)


def report_round(round_: Round, times: RoundTimes) -> RoundReport:
    """Return what those who watch the session are told of a round."""
    tree, verdict = round_.session_pass.tree, round_.verdict
    bonus = verdict.token_ids[len(verdict.accepted) :]
    return RoundReport(
        base_length=round_.base_length,
        parents=tree.parents,
        token_ids=tree.token_ids,
        scores=round_.scores,
        sources=tree.sources,
        accepted=verdict.accepted,
        bonus_token_id=bonus[0] if bonus else None,
        is_hit=round_.is_hit,
        drafted_nodes=round_.clock.drafted_nodes,
        late_nodes=round_.clock.late_nodes,
        times=times,
    )
