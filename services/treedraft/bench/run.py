"""Measures the engine without and with speculation, and transformers' `generate`.

One run, one machine, the same weights, dtype and threads. The engine is
measured as its users see it: through the coordinator, over gRPC, prompts
included. The three systems take turns within every repeat, so that a machine
whose speed drifts is slow for all of them; the others idle meanwhile. Every
measurement has prompts that begin differently, since the engine would
otherwise find their pages where an earlier one left them. What users ask is the
same every time, so drafters do not look into recent traffic: they would recite.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from treedraft.bench.answer import Answer, ask
from treedraft.bench.baseline import BaselineResult, TransformersBaseline
from treedraft.bench.plan import PLAIN, SPECULATIVE, TRANSFORMERS, BenchPlan
from treedraft.bench.prompts import conversations
from treedraft.bench.result import BenchResult, Check, Sample
from treedraft.core.generation import ChatMessage, GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.session import RoundTimes, SessionStatistics
from treedraft.inference.stamp import take_stamp
from treedraft.local_cluster.cluster import LocalCluster, Progress
from treedraft.local_cluster.plan import ClusterPlan, num_usable_cores, share_threads
from treedraft.rpc.coordinator_client import CoordinatorClient

Conversations = Sequence[tuple[ChatMessage, ...]]

_CHECKED_PROMPTS = 6
# One request at a time: that many of them, one after the other.
_SINGLE_STREAM_PROMPTS = 3


class Bench:
    """The three systems, up and warm."""

    def __init__(
        self,
        plan: BenchPlan,
        client: CoordinatorClient,
        baseline: TransformersBaseline | None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Remember what to measure and whom to ask."""
        self._plan = plan
        self._client = client
        self._baseline = baseline
        self._clock = clock

    async def check(self) -> Check:
        """Compare what the systems say, token for token; warms them up as well."""
        prompts = conversations(_CHECKED_PROMPTS, salt="check ")
        plain = await self._ask_all(prompts, is_speculative=False)
        speculative = await self._ask_all(prompts, is_speculative=True)
        reference: list[BaselineResult] = []
        if self._baseline is not None:
            # One by one: padding is an approximation of its own.
            reference = [
                await self._baseline.generate([prompt], self._plan.num_tokens) for prompt in prompts
            ]
        return Check(
            num_prompts=len(prompts),
            num_tokens=self._plan.num_tokens,
            speculative_equals_plain=_num_equal(
                [answer.token_ids for answer in speculative], [a.token_ids for a in plain]
            ),
            plain_equals_transformers=_num_equal(
                [answer.token_ids for answer in plain], [one.token_ids[0] for one in reference]
            )
            if reference
            else None,
            same_prompt_ids=_num_equal(
                [answer.started.prompt_token_ids for answer in plain],
                [one.prompt_token_ids[0] for one in reference],
            )
            if reference
            else None,
        )

    async def measure(self, system: str, concurrency: int, repeat: int) -> Sample:
        """Measure one system under one load, once."""
        number = concurrency if concurrency > 1 else _SINGLE_STREAM_PROMPTS
        prompts = conversations(number, salt=f"{repeat} {system} {concurrency} ")
        if system == TRANSFORMERS:
            return await self._measure_baseline(prompts, concurrency)
        return await self._measure_engine(prompts, concurrency, system)

    async def _measure_baseline(self, prompts: Conversations, concurrency: int) -> Sample:
        assert self._baseline is not None
        results: list[BaselineResult] = []
        for first in range(0, len(prompts), concurrency):
            batch = prompts[first : first + concurrency]
            results.append(await self._baseline.generate(batch, self._plan.num_tokens))
        num_tokens = sum(len(ids) for result in results for ids in result.token_ids)
        seconds = sum(result.seconds for result in results)
        return Sample(TRANSFORMERS, concurrency, num_tokens / seconds, seconds, num_tokens)

    async def _measure_engine(
        self, prompts: Conversations, concurrency: int, system: str
    ) -> Sample:
        started = self._clock()
        answers: list[Answer] = []
        for first in range(0, len(prompts), concurrency):
            batch = prompts[first : first + concurrency]
            answers += await self._ask_all(batch, is_speculative=system == SPECULATIVE)
        seconds = self._clock() - started
        return summarise(answers, system, concurrency, seconds)

    async def _ask_all(self, prompts: Conversations, *, is_speculative: bool) -> list[Answer]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    ask(
                        self._client,
                        GenerateQuery(
                            conversation=prompt,
                            sampling=SamplingParameters(temperature=0.0),
                            stopping=StoppingCriteria(
                                max_tokens=self._plan.num_tokens, ignore_eos=True
                            ),
                            speculation=SpeculationOptions(enabled=is_speculative),
                        ),
                    )
                )
                for prompt in prompts
            ]
        return [task.result() for task in tasks]


async def run_bench(plan: BenchPlan, folder: Path, progress: Progress) -> BenchResult:
    """Measure everything that the plan names.

    Args:
        plan: what to measure; `target` is only a name here.
        folder: of the target's weights, which all systems load.
        progress: told in words what is measured.
    """
    stamp = take_stamp()
    cluster_plan = plan_cluster(plan, folder)
    num_threads = share_threads(num_usable_cores(), cluster_plan)[0]
    async with _systems(plan, cluster_plan, num_threads, folder, progress) as bench:
        progress("comparing what the systems say")
        check = await bench.check()
        samples = []
        steps = [
            (repeat, concurrency, system)
            for repeat in range(plan.num_repeats)
            for concurrency in plan.concurrencies
            for system in plan.systems
        ]
        for number, (repeat, concurrency, system) in enumerate(steps):
            progress(f"measuring {number + 1}/{len(steps)}: {system}, {concurrency} at once")
            samples.append(await bench.measure(system, concurrency, repeat))
    return BenchResult(stamp, plan, num_threads, check, tuple(samples))


def plan_cluster(plan: BenchPlan, folder: Path) -> ClusterPlan:
    """Return the processes of a run."""
    return ClusterPlan(
        target=str(folder),
        draft=plan.draft,
        dtype=plan.dtype,
        weights=plan.weights,
        device=plan.device,
        draft_device=plan.draft_device,
        target_threads=plan.num_threads,
        settings=plan.settings,
    )


@asynccontextmanager
async def _systems(
    plan: BenchPlan, cluster_plan: ClusterPlan, num_threads: int, folder: Path, progress: Progress
) -> AsyncIterator[Bench]:
    baseline = TransformersBaseline(
        folder, dtype=plan.dtype, device=plan.device, num_threads=num_threads
    )
    async with LocalCluster(cluster_plan, progress=progress) as cluster:
        client = cluster.connect()
        try:
            if not plan.with_transformers:
                yield Bench(plan, client, None)
                return
            progress("loading the model into transformers")
            async with baseline:
                yield Bench(plan, client, baseline)
        finally:
            await client.close()


def summarise(answers: Sequence[Answer], system: str, concurrency: int, seconds: float) -> Sample:
    """Return the sample that answers amount to; `seconds` is the time of all of them."""
    statistics = [answer.finished.statistics for answer in answers]
    num_tokens = sum(len(answer.token_ids) for answer in answers)
    num_rounds = sum(one.rounds for one in statistics)
    hits, misses = (sum(getattr(one, name) for one in statistics) for name in ("hits", "misses"))
    first_tokens = [answer.finished.time_to_first_token_ms for answer in answers]
    is_plain = system == PLAIN
    return Sample(
        system=system,
        concurrency=concurrency,
        tokens_per_second=num_tokens / seconds,
        seconds=seconds,
        num_tokens=num_tokens,
        first_token_ms=sum(first_tokens) / len(first_tokens),
        tokens_per_round=sum(one.emitted_tokens for one in statistics) / max(1, num_rounds),
        hit_rate=None if is_plain else hits / max(1, hits + misses),
        admitted_nodes=sum(one.admitted_nodes for one in statistics),
        accepted_nodes=sum(one.accepted_nodes for one in statistics),
        round_ms=_mean_times(statistics, num_rounds),
    )


def _mean_times(statistics: Sequence[SessionStatistics], num_rounds: int) -> dict[str, float]:
    return {
        part: sum(getattr(one.round_ms, part) * one.rounds for one in statistics)
        / max(1, num_rounds)
        for part in asdict(RoundTimes())
    }


def _num_equal(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> int:
    return sum(tuple(a) == tuple(b) for a, b in zip(first, second, strict=True))
