"""One session at the target: tokens, pages, tree, counts.

The target is the source of truth. `token_ids` only ever grows, and everything
else (pages, tree, drafter) can be thrown away and rebuilt from it.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from treedraft.core.growth import Growth, SiblingLaw
from treedraft.core.prefix import chain_root
from treedraft.core.sampling import Verification
from treedraft.core.session import FinishReason, RoundTimes, SessionSpec, SessionStatistics
from treedraft.core.token_tree import TokenTree
from treedraft.inference.block_pool import slots_of
from treedraft.inference.sampler import SessionCounts
from treedraft.target.session_account import SessionAccount
from treedraft.target.stopping import StopChecker
from treedraft.telemetry.spans import RequestSpan
from treedraft.text.grammar import GrammarState

_MAX_REMEMBERED_COMMITS = 64
_NO_SLOTS: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class RoundClock:
    """What is measured of the round under way; times in nanoseconds of one clock."""

    ready_ns: int = 0
    draft_us: int = 0
    wire_us: int = 0
    drafted_nodes: int = 0
    late_nodes: int = 0


@dataclass(slots=True)
class RunningCounts:
    """Sums over the rounds of a session."""

    rounds: int = 0
    emitted_tokens: int = 0
    drafted_nodes: int = 0
    admitted_nodes: int = 0
    accepted_nodes: int = 0
    hits: int = 0
    misses: int = 0
    dropped_nodes: int = 0
    preemptions: int = 0
    cached_prompt_tokens: int = 0
    part_ms: list[float] = field(default_factory=lambda: [0.0] * 6)
    # Rounds by how deep their tree was and how much of it they accepted.
    accepted_lengths: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add_round(
        self,
        times: RoundTimes,
        *,
        num_emitted: int,
        num_admitted: int,
        depth: int,
        num_accepted: int,
        is_hit: bool | None,
    ) -> None:
        """Add one round; `is_hit` is None where nobody drafts."""
        sums = self.part_ms
        sums[0] += times.draft
        sums[1] += times.wire
        sums[2] += times.queue
        sums[3] += times.forward
        sums[4] += times.walk
        sums[5] += times.commit
        self.rounds += 1
        self.emitted_tokens += num_emitted
        self.admitted_nodes += num_admitted
        self.accepted_nodes += num_accepted
        self.accepted_lengths[depth, num_accepted] += 1
        if is_hit is not None:
            self.hits += is_hit
            self.misses += not is_hit


class TargetSession:
    """A session while it runs at this target."""

    def __init__(
        self,
        spec: SessionSpec,
        *,
        stop_checker: StopChecker,
        fingerprint: str,
        span: RequestSpan,
        now_ns: int,
        max_live_nodes: int,
        vocab_size: int,
        grammar: GrammarState | None = None,
    ) -> None:
        """Take over a checked session; nothing is allocated yet."""
        self.spec = spec
        self.grammar = grammar
        self.token_ids: list[int] = list(spec.token_ids)
        self.stop_checker = stop_checker
        self.span = span
        self.started_ns = now_ns
        self.deadline_ns = (
            now_ns + int(spec.time_limit_seconds * 1e9)
            if spec.time_limit_seconds is not None
            else None
        )
        self.first_pass_ns = 0
        self.first_token_ns = 0
        # Monotonic seconds at which the first token is due; infinite if at no instant.
        self.first_token_due = math.inf
        self.num_first_tokens = 0
        self.last_token_ns = 0
        self.logged_length = len(self.token_ids)
        # KV: pages in order, how many tokens they cover, and the hash chain of
        # the pages that are published.
        self.blocks: list[int] = []
        self._slots = _NO_SLOTS
        self.num_computed = 0
        self.num_published = 0
        self.chain = chain_root(fingerprint, spec.tenant_salt)
        self._chain_root = self.chain
        # Drafting.
        self.max_live_nodes = max_live_nodes
        self.tree = TokenTree(len(self.token_ids), max_nodes=max_live_nodes)
        self.sibling_laws: dict[int, SiblingLaw] = {}
        # Committed length at which the drafter said that nothing more will come.
        self.rest_length = -1
        self.draft_account = SessionAccount()
        self.commit_sent_ns: deque[tuple[int, int]] = deque(maxlen=_MAX_REMEMBERED_COMMITS)
        # Measuring.
        self.counts = RunningCounts()
        self.clock = RoundClock(ready_ns=now_ns)
        self._vocab_size = vocab_size
        self._unending: npt.NDArray[np.bool_] | None = None
        self.token_counts: SessionCounts | None = None
        if spec.sampling.has_penalties:
            self.token_counts = SessionCounts(vocab_size)
            self.token_counts.add_prompt(self.token_ids[: spec.prompt_length])
            self.token_counts.add_output(self.token_ids[spec.prompt_length :])
        # Set for a session that moves here after its last token: nothing may follow.
        self.reached_end: FinishReason | None = None
        for token_id in self.token_ids[spec.prompt_length :]:
            self.reached_end = self.reached_end or stop_checker.push(token_id)

    @property
    def session_id(self) -> str:
        """Name of the session."""
        return self.spec.session_id

    @property
    def num_tokens(self) -> int:
        """Committed length, prompt included."""
        return len(self.token_ids)

    @property
    def num_pending(self) -> int:
        """Committed tokens whose KV is not computed; 1 while decoding."""
        return len(self.token_ids) - self.num_computed

    @property
    def is_rejection(self) -> bool:
        """Whether drafts are accepted by rejection sampling."""
        return self.spec.sampling.verification is Verification.REJECTION

    @property
    def is_resting(self) -> bool:
        """Whether the drafter will add nothing until the next commit."""
        return self.rest_length == self.num_tokens

    def allowed_after(self, path: tuple[int, ...]) -> npt.NDArray[np.bool_] | None:
        """Return which tokens may be drawn after a path below the root; None for all."""
        if self.grammar is not None:
            return self.grammar.allowed_after(path)
        if len(path) >= self.stop_checker.num_bound:
            return None
        if self._unending is None:
            self._unending = np.ones(self._vocab_size, dtype=np.bool_)
            self._unending[sorted(self.stop_checker.forbidden_ids)] = False
        return self._unending

    def commit(self, token_ids: tuple[int, ...]) -> None:
        """Make tokens final and move the root of the tree along them."""
        self.token_ids.extend(token_ids)
        self.last_token_ns = time.monotonic_ns()
        if not self.first_token_ns:
            self.first_token_ns = self.last_token_ns
            self.num_first_tokens = len(token_ids)
        if self.token_counts is not None:
            self.token_counts.add_output(token_ids)
        if self.grammar is not None:
            self.grammar.commit(token_ids)
        removed = self.tree.reroot(token_ids)
        for node_id in (*removed.removed_ids, *removed.path):
            self.sibling_laws.pop(node_id, None)

    def slots(self, block_size: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the slots of the tokens before `stop`, not to be written to."""
        num_mapped = len(self.blocks) * block_size
        if len(self._slots) != num_mapped:  # pages come one by one, and go all at once
            self._slots = slots_of(self.blocks, block_size, 0, num_mapped)
        assert stop <= num_mapped
        return self._slots[:stop]

    def begin_round(self, now_ns: int) -> None:
        """Start to measure the next round."""
        self.clock = RoundClock(ready_ns=now_ns)

    def drop_drafts(self) -> None:
        """Forget the tree, as when the drafter is gone or starts afresh."""
        self.tree = TokenTree(self.num_tokens, max_nodes=self.max_live_nodes)
        self.sibling_laws.clear()
        self.rest_length = -1

    def drop_kv(self) -> list[int]:
        """Forget all pages and return them, to be released by the caller."""
        blocks, self.blocks = self.blocks, []
        self._slots = _NO_SLOTS
        self.num_computed = self.num_published = 0
        self.chain = self._chain_root
        return blocks

    def graft(self, growth: Growth, *, arrived_ns: int) -> int:
        """Take over drafted nodes; return how many were dropped.

        Raises:
            InvalidGrowthError: the growth cannot belong to this tree.
        """
        grafted = self.tree.graft(growth, self.token_ids)
        self.counts.drafted_nodes += growth.num_nodes
        self.counts.dropped_nodes += grafted.num_dropped
        self.clock.drafted_nodes += growth.num_nodes
        self.clock.late_nodes += grafted.num_dropped
        if self.is_rejection:
            self._keep_intact_laws(growth)
        self._observe_wire(growth, arrived_ns)
        return grafted.num_dropped

    def _keep_intact_laws(self, growth: Growth) -> None:
        for law in growth.sibling_laws:
            children = range(law.first_child_id, law.first_child_id + law.num_children)
            if all(child in self.tree for child in children):
                self.sibling_laws[law.first_child_id] = law

    def sent_ns(self, base_length: int) -> int | None:
        """Return when its drafter was told that the text has this length; None if forgotten."""
        # Mostly it is the last that is asked for.
        told = reversed(self.commit_sent_ns)
        return next((sent_ns for length, sent_ns in told if length == base_length), None)

    def _observe_wire(self, growth: Growth, arrived_ns: int) -> None:
        self.clock.draft_us += growth.draft_us
        # Only the first answer to a commit measures the way.
        if not self.clock.wire_us and (sent_ns := self.sent_ns(growth.base_length)) is not None:
            round_trip_us = (arrived_ns - sent_ns) // 1000
            self.clock.wire_us = max(0, round_trip_us - growth.held_us)

    def statistics(self) -> SessionStatistics:
        """Return the counts so far, with means over the rounds."""
        counts = self.counts
        means = [total / max(counts.rounds, 1) for total in counts.part_ms]
        by_depth = _by_depth(counts.accepted_lengths)
        return SessionStatistics(
            rounds=counts.rounds,
            emitted_tokens=counts.emitted_tokens,
            drafted_nodes=counts.drafted_nodes,
            admitted_nodes=counts.admitted_nodes,
            accepted_nodes=counts.accepted_nodes,
            hits=counts.hits,
            misses=counts.misses,
            dropped_nodes=counts.dropped_nodes,
            first_token_ms=max(0, self.first_token_ns - self.started_ns) / 1e6,
            first_tokens=self.num_first_tokens,
            decode_ms=(self.last_token_ns - self.first_token_ns) / 1e6,
            round_ms=RoundTimes(*means),
            cached_prompt_tokens=counts.cached_prompt_tokens,
            preemptions=counts.preemptions,
            accepted_lengths=tuple(map(sum, zip_longest(*by_depth, fillvalue=0))),
            accepted_lengths_by_depth=by_depth,
        )


def _by_depth(rounds: Mapping[tuple[int, int], int]) -> tuple[tuple[int, ...], ...]:
    """Return for each depth how many rounds accepted 0, 1, 2, … nodes."""
    by_depth: list[list[int]] = []
    for (depth, length), count in sorted(rounds.items()):
        by_depth += [[] for _ in range(depth + 1 - len(by_depth))]
        by_depth[depth] += [0] * (length - len(by_depth[depth])) + [count]
    return tuple(map(tuple, by_depth))
