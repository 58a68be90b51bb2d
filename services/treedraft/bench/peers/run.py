"""Runs a comparison: all systems loaded at once, measured in turns.

A machine's speed drifts, so every repeat visits every row, and every second
repeat visits them backwards. All rows continue the same prompts; each repeat has
its own, so that nobody finds in a cache what it computed before. Whoever cannot
be loaded, fails or stays silent becomes a row that says why.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from treedraft.bench.peers.files import PeerFiles, prepare
from treedraft.bench.peers.plan import TREEDRAFT, PeersPlan, Row
from treedraft.bench.peers.process import PeerProcess
from treedraft.bench.peers.protocol import PeerSetup
from treedraft.bench.peers.result import Outcome, PeersResult, Reply
from treedraft.bench.peers.treedraft_peer import TreedraftPeer, plan_cluster
from treedraft.bench.prompts import conversations
from treedraft.core.errors import TreedraftError
from treedraft.inference.downloads import Progress
from treedraft.inference.stamp import take_stamp
from treedraft.inference.weights import ModelFiles
from treedraft.local_cluster.plan import num_usable_cores

Prompt = tuple[int, ...]

_WARM_UP_TOKENS = 24


class Contender(Protocol):
    """A system that is loaded."""

    packages: dict[str, str]

    async def generate(self, mode: str, prompt_ids: Sequence[int], num_tokens: int) -> Reply:
        """Continue a prompt greedily by that many tokens."""
        ...


Starter = Callable[[Row], AbstractAsyncContextManager[Contender]]


class Comparison:
    """All rows of a plan, those that can be run and those that cannot."""

    def __init__(
        self,
        plan: PeersPlan,
        start: Starter,
        progress: Progress,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember what to measure and how a row's system is started."""
        self._plan = plan
        self._start = start
        self._progress = progress
        self._clock = clock
        self._stack = AsyncExitStack()
        self._contenders: dict[Row, Contender] = {}
        self._failures: dict[Row, str] = {}
        self._replies: dict[Row, list[tuple[Reply, ...]]] = {row: [] for row in plan.rows}

    async def run(self, prompts: Sequence[Sequence[Prompt]]) -> tuple[Outcome, ...]:
        """Load, warm up and measure.

        Args:
            prompts: those of the warm-up, then those of each repeat.
        """
        async with self._stack:
            await self._load()
            warm_up, *repeats = prompts
            for row in self._plan.rows:
                await self._ask(row, warm_up, _WARM_UP_TOKENS, "warming up")
            started = self._clock()
            for number, repeat in enumerate(repeats):
                if number and 0 < self._plan.max_seconds < self._clock() - started:
                    break
                rows = self._plan.rows[:: -1 if number % 2 else 1]
                for row in rows:
                    replies = await self._ask(
                        row, repeat, self._plan.num_tokens, f"repeat {number + 1}"
                    )
                    if replies:
                        self._replies[row].append(replies)
        return tuple(
            Outcome(row, failure=self._failures[row])
            if row in self._failures
            else Outcome(row, tuple(self._replies[row]))
            for row in self._plan.rows
        )

    @property
    def packages(self) -> dict[str, str]:
        """Versions of everything that was loaded."""
        loaded = self._contenders.values()
        return {name: version for one in loaded for name, version in one.packages.items()}

    async def _load(self) -> None:
        """Start every system once for all the modes that it has in one precision."""
        started: dict[tuple[str, ...], Contender | str] = {}
        for row in self._plan.rows:
            mode = row.mode if row.system == TREEDRAFT else ""
            key = (row.system, row.precision, row.gguf, mode)
            if key not in started:
                self._progress(f"loading {row.system}, {row.precision}")
                try:
                    started[key] = await self._stack.enter_async_context(self._start(row))
                except TreedraftError as error:
                    started[key] = _in_one_line(error.message)
            contender = started[key]
            if isinstance(contender, str):
                self._failures[row] = contender
            else:
                self._contenders[row] = contender

    async def _ask(
        self, row: Row, prompts: Sequence[Prompt], num_tokens: int, what: str
    ) -> tuple[Reply, ...]:
        """Return a row's replies, none once it has failed."""
        if row in self._failures:
            return ()
        self._progress(f"{what}: {row.system}, {row.precision}, {row.mode}")
        try:
            return tuple(
                [
                    await self._contenders[row].generate(row.mode, prompt, num_tokens)
                    for prompt in prompts
                ]
            )
        except TreedraftError as error:
            self._failures[row] = _in_one_line(error.message)
            return ()


def _in_one_line(message: str) -> str:
    # A process that died says what it is, and ends with the reason.
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0] if len(lines) < 2 else f"{lines[0]} {lines[-1]}"


async def run_peers(
    plan: PeersPlan, python: str, source: str, target: ModelFiles, progress: Progress
) -> PeersResult:
    """Measure everything that a plan names.

    Args:
        plan: what to measure.
        python: that runs the peers.
        source: of the target, as the user named it.
        target: its files, which all systems load or are given in their own form.
        progress: told in words what is going on.
    """
    stamp = take_stamp()
    num_threads = plan.num_threads or num_usable_cores()
    types = list(dict.fromkeys(row.gguf for row in plan.rows if row.gguf))
    with tempfile.TemporaryDirectory(prefix="treedraft-peers-") as folder:
        files = prepare(target, source, plan.draft, types, Path(folder), progress)

        def start(row: Row) -> AbstractAsyncContextManager[Contender]:
            if row.system == TREEDRAFT:
                return TreedraftPeer(plan_cluster(plan, row, str(target.folder)), progress)
            return PeerProcess(python, setup_of(row, files, num_threads))

        comparison = Comparison(plan, start, progress)
        outcomes = await comparison.run(tokenized_prompts(plan, target.folder))
    return PeersResult(stamp, plan, num_threads, outcomes, comparison.packages)


def setup_of(row: Row, files: PeerFiles, num_threads: int) -> PeerSetup:
    """Return what the process of a row's system loads."""
    return PeerSetup(
        adapter=row.system,
        precision=row.precision,
        num_threads=num_threads,
        model=files.model,
        drafter=files.drafter,
        gguf=files.gguf.get(row.gguf, ""),
    )


def tokenized_prompts(plan: PeersPlan, folder: Path) -> list[list[Prompt]]:
    """Return the prompt of the warm-up and the prompts of each repeat, all of them different."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    count = plan.num_prompts
    prompts: list[Prompt] = [
        tuple(
            tokenizer.apply_chat_template(
                [{"role": one.role, "content": one.content} for one in conversation],
                add_generation_prompt=True,
            )["input_ids"]
        )
        for conversation in conversations(count * plan.num_repeats + 1)
    ]
    repeats = [prompts[first : first + count] for first in range(0, len(prompts) - 1, count)]
    return [prompts[-1:], *repeats]
