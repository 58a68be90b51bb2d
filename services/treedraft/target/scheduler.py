"""Which sessions take part in a pass, with which rows, on which pages.

Continuous batching: every pass serves all decoding sessions, and prompt chunks
of new ones share it. A prompt chunk and a decoding step are the same thing
here: committed tokens whose KV is missing, and, once they reach the end of the
text, the drafted nodes below it. A chunk is no larger than keeps the decoding
sessions waiting for a step or two, by what rows are measured to take.

When pages run out, drafted nodes go first; then the session that came last is
put back to be prefilled again. Its tokens are all it needs.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from treedraft.core.errors import OverloadedError
from treedraft.core.flat_tree import FlatTree
from treedraft.core.prefix import extend_chain, page_hashes
from treedraft.core.token_tree import TokenTree
from treedraft.inference.block_pool import BlockPool
from treedraft.target.budget import Budget, BudgetRequest
from treedraft.target.prompt_line import FirstTokenLimit, PromptLine
from treedraft.target.session import TargetSession

_NO_NODES = FlatTree()
# However long the others' step gets: a prompt must get on.
_LEAST_PROMPT_ROWS = 8


@dataclass(slots=True)
class SessionPass:
    """The part of one session in a pass."""

    session: TargetSession
    num_new: int
    # Whether the last committed token is among the rows, so that a draw follows.
    reaches_end: bool
    # The tree that the nodes were taken from. The session may get another one
    # while the pass runs, when its drafter is lost.
    grown: TokenTree
    tree: FlatTree = _NO_NODES


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of a pass and of the sessions at hand."""

    max_sessions: int
    max_waiting: int
    prefill_chunk: int
    max_stall_steps: float
    max_nodes: int
    max_depth: int
    max_unlogged_tokens: int
    first_token: FirstTokenLimit = field(default_factory=FirstTokenLimit)


class Scheduler:
    """Owns the order of sessions and the pages they hold."""

    def __init__(
        self,
        pool: BlockPool,
        budget: Budget,
        limits: SchedulerLimits,
        *,
        fingerprint: str,
        on_preempted: Callable[[], None],
    ) -> None:
        """Schedule over the pages of `pool`; `on_preempted` is told of each session put back."""
        self._on_preempted = on_preempted
        self._pool = pool
        self._budget = budget
        self._limits = limits
        self._fingerprint = fingerprint
        self._waiting: deque[TargetSession] = deque()
        self._running: list[TargetSession] = []
        self._line = PromptLine(limits.first_token, budget, self._prompt_rows)

    @property
    def num_running(self) -> int:
        """Sessions that hold pages."""
        return len(self._running)

    @property
    def num_sessions(self) -> int:
        """Sessions that run or could run."""
        return min(len(self._running) + len(self._waiting), self._limits.max_sessions)

    @property
    def num_waiting(self) -> int:
        """Sessions that wait for pages."""
        return len(self._waiting)

    @property
    def num_pending_pages(self) -> int:
        """Pages of prompts that are still to be computed, of waiting sessions too."""
        pending = sum(one.num_pending - 1 for one in (*self._running, *self._waiting))
        return -(-pending // self._pool.block_size)

    @property
    def has_prompts(self) -> bool:
        """Whether a prompt is still to be computed, of waiting sessions too."""
        return any(one.num_pending > 1 for one in (*self._running, *self._waiting))

    def add(self, session: TargetSession) -> None:
        """Queue a new session.

        Raises:
            OverloadedError: too many are waiting already.
        """
        if len(self._waiting) >= self._limits.max_waiting:
            raise OverloadedError("too many sessions are waiting", reason="QUEUE_FULL")
        self._waiting.append(session)

    def remove(self, session: TargetSession) -> None:
        """Forget a session and free its pages."""
        if session in self._running:
            self._running.remove(session)
        else:
            self._waiting.remove(session)
        self._pool.release(session.drop_kv())

    def hopeless(self) -> list[TargetSession]:
        """Return the sessions whose first token cannot be in time any more."""
        if not self._limits.first_token.seconds:
            return []
        return self._in_order([*self._running, *self._waiting])[1]

    def decoding(self, *, beside_prompts: bool = False) -> list[TargetSession]:
        """Return the sessions of the next pass that decode.

        Args:
            beside_prompts: whether those of a pass that computes a part of a prompt count too.
        """
        self._admit_waiting()
        ready = [session for session in self._running if not self._is_paused(session)]
        decoding = [session for session in ready if session.num_pending == 1]
        return decoding if beside_prompts or len(decoding) == len(ready) else []

    def plan(self) -> list[SessionPass]:
        """Return the parts of the next pass; empty if nothing can run."""
        self._admit_waiting()
        passes = self._choose_rows()
        self._choose_nodes(passes)
        return self._provide_pages(passes)

    def _in_order(
        self, sessions: list[TargetSession]
    ) -> tuple[list[TargetSession], list[TargetSession]]:
        prompts = [one for one in sessions if one.num_pending > 1]
        return self._line.order(prompts, sum(one.num_pending == 1 for one in self._running))

    def _admit_waiting(self) -> None:
        if len(self._waiting) > 1:
            first, last = self._in_order(list(self._waiting))
            short = [one for one in self._waiting if one.num_pending <= 1]
            self._waiting = deque([*short, *first, *last])
        while self._waiting and len(self._running) < self._limits.max_sessions:
            session = self._waiting[0]
            if not self._take_first_pages(session):
                return
            self._running.append(self._waiting.popleft())

    def _take_first_pages(self, session: TargetSession) -> bool:
        size = self._pool.block_size
        # The last token is always computed, since its logits are needed.
        hashes = page_hashes(
            session.token_ids[:-1],
            block_size=size,
            fingerprint=self._fingerprint,
            tenant_salt=session.spec.tenant_salt,
        )
        shared = self._pool.match_prefix(hashes)
        try:
            own = self._pool.allocate(-(-session.num_tokens // size) - len(shared))
        except OverloadedError:
            self._pool.release(shared)
            return False
        session.blocks = shared + own
        session.num_computed = len(shared) * size
        session.num_published = len(shared)
        if shared:
            session.chain = hashes[len(shared) - 1]
        if not session.counts.rounds:
            cached = min(session.num_computed, session.spec.prompt_length)
            session.counts.cached_prompt_tokens = cached
        return True

    def _choose_rows(self) -> list[SessionPass]:
        ready = [session for session in self._running if not self._is_paused(session)]
        if all(session.num_pending == 1 for session in ready):
            return [SessionPass(session, 1, True, session.tree) for session in ready]
        num_rows = {id(one): 1 for one in ready if one.num_pending == 1}
        rows_left = self._prompt_rows(len(num_rows))
        first, last = self._in_order(ready)
        for session in (*first, *last):
            num_rows[id(session)] = min(session.num_pending, rows_left)
            rows_left -= num_rows[id(session)]
        return [
            SessionPass(session, number, number == session.num_pending, session.tree)
            for session in ready
            if (number := num_rows[id(session)])
        ]

    def _prompt_rows(self, num_decoding: int) -> int:
        limits = self._limits
        if not num_decoding:
            return limits.prefill_chunk
        rows = self._budget.prompt_rows(num_decoding, max_stall_steps=limits.max_stall_steps)
        return min(limits.prefill_chunk, max(_LEAST_PROMPT_ROWS, rows))

    def _is_paused(self, session: TargetSession) -> bool:
        """Return whether the session waits for its log."""
        return session.num_tokens - session.logged_length > self._limits.max_unlogged_tokens

    def _choose_nodes(self, passes: list[SessionPass]) -> None:
        speculating = [p for p in passes if p.reaches_end and len(p.session.tree)]
        if not speculating:
            return
        requests = [self._budget_request(p.session) for p in speculating]
        num_plain_rows = sum(p.num_new for p in passes)
        num_sessions = sum(p.reaches_end for p in passes)
        trees = self._budget.choose(
            requests,
            num_plain_rows=num_plain_rows,
            num_sessions=num_sessions,
            num_passing=len(passes),
            load=self.num_sessions,
        )
        for session_pass, tree in zip(speculating, trees, strict=True):
            session_pass.tree = tree

    def _budget_request(self, session: TargetSession) -> BudgetRequest:
        options, limits = session.spec.speculation, self._limits
        max_nodes = limits.max_nodes if options.max_nodes is None else options.max_nodes
        max_depth = limits.max_depth if options.max_depth is None else options.max_depth
        # A node deeper than the tokens left could never be emitted.
        max_depth = min(max_depth, limits.max_depth, session.stop_checker.tokens_left - 1)
        return BudgetRequest(
            tree=session.tree,
            max_nodes=min(max_nodes, limits.max_nodes) if options.enabled else 0,
            max_depth=max_depth,
            sibling_laws=session.sibling_laws if session.is_rejection else None,
        )

    def _provide_pages(self, passes: list[SessionPass]) -> list[SessionPass]:
        provided = []
        num_running = len(self._running)
        for session_pass in passes:
            session = session_pass.session
            if len(self._running) != num_running and session not in self._running:
                continue  # put back to make room for an earlier one
            if not self._extend(session, session.num_tokens + session_pass.tree.num_nodes):
                session_pass.tree = _NO_NODES
                if not self._extend_by_preemption(session):
                    continue
            provided.append(session_pass)
        if len(self._running) == num_running:
            return provided
        return [p for p in provided if p.session in self._running]

    def _extend(self, session: TargetSession, num_slots: int) -> bool:
        size = self._pool.block_size
        if num_slots > size * len(session.blocks):
            missing = -(-num_slots // size) - len(session.blocks)
            try:
                session.blocks.extend(self._pool.allocate(missing))
            except OverloadedError:
                return False
        return True

    def _extend_by_preemption(self, session: TargetSession) -> bool:
        while not self._extend(session, session.num_tokens):
            last = self._running.pop()
            self._pool.release(last.drop_kv())
            last.counts.preemptions += 1
            self._on_preempted()
            self._waiting.appendleft(last)
            if last is session:
                return False
        return True

    def publish_pages(self, session: TargetSession) -> None:
        """Make the pages that the session has filled available to others."""
        size = self._pool.block_size
        while (session.num_published + 1) * size <= session.num_computed:
            start = session.num_published * size
            session.chain = extend_chain(session.chain, session.token_ids[start : start + size])
            self._pool.publish(session.blocks[session.num_published], session.chain)
            session.num_published += 1
