"""The engine with and without speculation at many loads: 1 to 256 sessions, greedy and sampled.

All through the real exchange: coordinator, target and drafter are processes of their own.
Prompts are prose, code and questions, short and long in turns. Both systems are measured in
turns in every repeat, and repeats are outermost, so that whatever ends it early leaves all
loads with the same number of them. A repeat before the first is not counted: sizes that come
for the second time are recorded.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from scripts.gpu.exchange import summary_of
from scripts.gpu.loads import settings_of
from scripts.gpu.section import Call, Found

from treedraft.bench.answer import Answer, ask
from treedraft.bench.plan import PLAIN, SPECULATIVE, WITHOUT_RECENT_TRAFFIC
from treedraft.bench.prompts import PROMPTS
from treedraft.bench.result import Sample
from treedraft.bench.run import summarise
from treedraft.core.generation import ChatMessage, GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.inference.drafters import choose_drafter
from treedraft.inference.weights import resolve
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.rpc.coordinator_client import CoordinatorClient

LOADS = (1, 4, 16, 64, 256)
TEMPERATURES = (0.0, 0.7)
_SINGLE = 4  # prompts of a single stream, one after the other
_WORDS = (0, 60, 250, 700)  # put before prompts, in turns
_TINY_WORDS = (0, 20)
_CHECKED = 6
_MOST_REPEATS = 5

Point = tuple[int, float]


def measure(call: Call) -> Found:
    """Yield a line for each load and temperature, again after each repeat."""
    sweep = _Sweep(call)
    with asyncio.Runner() as runner:
        told = sweep.run()
        try:
            while True:
                yield runner.run(anext(told))
        except StopAsyncIteration:
            return
        finally:
            runner.run(told.aclose())


class _Sweep:
    """One cluster and all that was measured on it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._samples: defaultdict[tuple[Point, str], list[Sample]] = defaultdict(list)
        self._num_tokens = 8 if call.is_tiny else 64

    async def run(self) -> AsyncIterator[tuple[str, Any]]:
        options, device = self._call.options, self._call.device
        plan = ClusterPlan(
            target=str(resolve(options.weights).folder),
            draft=choose_drafter(options.draft, options.weights),
            dtype="bfloat16" if device.type == "cuda" else "float32",
            device=device.type,
            settings={**WITHOUT_RECENT_TRAFFIC, **settings_of(options, is_many=True)},
        )
        started = time.monotonic()
        async with LocalCluster(plan, start_seconds=self._call.seconds_left) as cluster:
            client = cluster.connect()
            try:
                yield "seconds until it was up", round(time.monotonic() - started, 1)
                for temperature in TEMPERATURES:
                    yield f"equal texts, T {temperature:g}", await self._check(client, temperature)
                async for told in self._repeat(client):
                    yield told
            finally:
                await client.close()

    async def _repeat(self, client: CoordinatorClient) -> AsyncIterator[tuple[str, Any]]:
        took: dict[Point, float] = {}
        for repeat in range(1 + (1 if self._call.is_tiny else _MOST_REPEATS)):
            for point in self._points():
                if not self._call.has_time(took.get(point, 0.0)):
                    return
                started = time.monotonic()
                for system in (PLAIN, SPECULATIVE):
                    sample = await self._measure(client, point, system, repeat)
                    if repeat:
                        self._samples[point, system].append(sample)
                took[point] = time.monotonic() - started
                if repeat:
                    yield self._line(point)

    def _points(self) -> Iterator[Point]:
        for count in (1, 2) if self._call.is_tiny else LOADS:
            for temperature in TEMPERATURES:
                yield count, temperature

    async def _measure(
        self, client: CoordinatorClient, point: Point, system: str, repeat: int
    ) -> Sample:
        count, temperature = point
        prompts = self._prompts(_SINGLE if count == 1 else count, f"{repeat} {system} {point} ")
        started, answers = time.perf_counter(), []
        for first in range(0, len(prompts), count):
            some = prompts[first : first + count]
            answers += await self._ask(client, some, temperature, system)
        return summarise(answers, system, count, time.perf_counter() - started)

    async def _ask(
        self,
        client: CoordinatorClient,
        prompts: Sequence[tuple[ChatMessage, ...]],
        temperature: float,
        system: str,
    ) -> list[Answer]:
        queries = [
            GenerateQuery(
                conversation=prompt,
                sampling=SamplingParameters(temperature=temperature, seed=index),
                stopping=StoppingCriteria(max_tokens=self._num_tokens, ignore_eos=True),
                speculation=SpeculationOptions(enabled=system == SPECULATIVE),
            )
            for index, prompt in enumerate(prompts)
        ]
        return await asyncio.gather(*(ask(client, query) for query in queries))

    async def _check(self, client: CoordinatorClient, temperature: float) -> str:
        prompts = self._prompts(_CHECKED, f"check {temperature} ")
        plain, speculative = [
            await self._ask(client, prompts, temperature, system) for system in (PLAIN, SPECULATIVE)
        ]
        same = sum(a.token_ids == b.token_ids for a, b in zip(plain, speculative, strict=True))
        return f"{same} of {len(prompts)}"

    def _prompts(self, count: int, salt: str) -> list[tuple[ChatMessage, ...]]:
        return mixed(count, salt, _TINY_WORDS if self._call.is_tiny else _WORDS)

    def _line(self, point: Point) -> tuple[str, str]:
        own = {name: self._samples[point, name] for name in (PLAIN, SPECULATIVE)}
        count, temperature = point
        bar = "bar 1.5" if count <= 16 else "bar 0.97"
        return f"{count} at once, T {temperature:g}", f"{summary_of(own)} ({bar})"


def mixed(count: int, salt: str, lengths: Sequence[int]) -> list[tuple[ChatMessage, ...]]:
    """Return conversations of mixed kind and length, which begin as no others do."""
    words = " ".join(PROMPTS).split()
    told = []
    for index in range(count):
        length = lengths[index % len(lengths)]
        start = 37 * index % len(words)
        before = " ".join((words * 3)[start : start + length])
        text = PROMPTS[(index + index // len(PROMPTS)) % len(PROMPTS)]
        told.append(
            (
                ChatMessage("system", f"{salt}{index} You are a helpful assistant."),
                ChatMessage("user", f"{before}\n\n{text}" if before else text),
            )
        )
    return told
