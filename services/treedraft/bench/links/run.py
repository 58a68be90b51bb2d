"""Measures the exchange over links of different length, beside plain decoding.

Target and drafter are processes as ever; between them stands a proxy that delays
every byte. A text with drafts comes right after one without, of the same prompt, so
that a machine whose speed drifts is slow for both.
"""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from treedraft.bench.answer import Answer, Asking, ask
from treedraft.bench.links.delay import DelayProxy
from treedraft.bench.links.plan import ONE_PASS, Exchange, LinksPlan, exchanges
from treedraft.bench.links.result import LinkSample, LinksResult
from treedraft.bench.prompts import conversations
from treedraft.core.generation import ChatMessage, GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.session import SessionStatistics
from treedraft.inference.stamp import take_stamp
from treedraft.local_cluster.cluster import LocalCluster, Progress
from treedraft.local_cluster.plan import (
    ClusterPlan,
    num_usable_cores,
    synchronous_settings,
)

Conversation = Sequence[ChatMessage]

_LOOPBACK = "127.0.0.1"
# What a link and its drafter take is learned by this text.
_SETTLING_TOKENS = 32


@dataclass(slots=True)
class LinkBench:
    """A cluster with a line of adjustable length in it."""

    plan: LinksPlan
    client: Asking
    proxy: DelayProxy

    async def pass_ms(self) -> float:
        """Return what a pass takes without drafts."""
        [conversation] = conversations(1, salt="pass ")
        statistics = (await self._ask(conversation, is_speculative=False)).finished.statistics
        return statistics.round_ms.forward + statistics.round_ms.walk

    async def measure(self, exchange: Exchange, round_trip_ms: float) -> list[LinkSample]:
        """Measure one exchange over one link, a sample for each prompt."""
        self.proxy.round_trip_ms = round_trip_ms
        prompts = conversations(self.plan.num_prompts, salt=f"{exchange.name} {round_trip_ms} ")
        await self._ask(prompts[0], is_speculative=True, num_tokens=_SETTLING_TOKENS)
        return [
            await self._compare(conversation, exchange, round_trip_ms) for conversation in prompts
        ]

    async def _compare(
        self, conversation: Conversation, exchange: Exchange, round_trip_ms: float
    ) -> LinkSample:
        plain = await self._ask(conversation, is_speculative=False)
        before = self.proxy.num_bytes
        drafted = await self._ask(conversation, is_speculative=True)
        statistics = drafted.finished.statistics
        return LinkSample(
            exchange=exchange.name,
            round_trip_ms=round_trip_ms,
            plain_ms_per_token=_ms_per_token(plain.finished.statistics),
            ms_per_token=_ms_per_token(statistics),
            tokens_per_round=statistics.tokens_per_round,
            hit_rate=statistics.hits / max(1, statistics.hits + statistics.misses),
            num_nodes=statistics.drafted_nodes,
            num_bytes=self.proxy.num_bytes - before,
            is_same_text=plain.token_ids == drafted.token_ids,
        )

    async def _ask(
        self, conversation: Conversation, *, is_speculative: bool, num_tokens: int = 0
    ) -> Answer:
        stopping = StoppingCriteria(max_tokens=num_tokens or self.plan.num_tokens, ignore_eos=True)
        return await ask(
            self.client,
            GenerateQuery(
                conversation=tuple(conversation),
                sampling=SamplingParameters(temperature=0.0),
                stopping=stopping,
                speculation=SpeculationOptions(enabled=is_speculative),
            ),
        )


async def run_links(plan: LinksPlan, folder: Path, progress: Progress) -> LinksResult:
    """Measure everything that the plan names.

    Args:
        plan: what to measure; `target` is only a name here.
        folder: of the target's weights.
        progress: told in words what is measured.
    """
    stamp = take_stamp()
    samples: list[LinkSample] = []
    pass_ms = 0.0
    for exchange, wanted_ms in product(exchanges(plan), plan.round_trips_ms):
        # What was learned of one link says nothing of the next.
        async with _cluster(plan, exchange, folder, progress) as bench:
            # The first pass after a start is slower than those to come.
            await bench.pass_ms()
            pass_ms = pass_ms or await bench.pass_ms()
            round_trip_ms = pass_ms if wanted_ms == ONE_PASS else wanted_ms
            progress(f"{exchange.name}, a round trip of {round_trip_ms:.0f} ms")
            for _ in range(plan.num_repeats):
                samples += await bench.measure(exchange, round_trip_ms)
    return LinksResult(stamp, plan, pass_ms, tuple(samples))


@asynccontextmanager
async def _cluster(
    plan: LinksPlan, exchange: Exchange, folder: Path, progress: Progress
) -> AsyncIterator[LinkBench]:
    upstream = (_LOOPBACK, _free_port())
    own = synchronous_settings(exchange.sync_nodes) if exchange.sync_nodes else {}
    async with DelayProxy(upstream) as proxy:
        settings = {
            **plan.settings,
            **own,
            "TREEDRAFT_DRAFT__GRPC__ADVERTISE": proxy.endpoint,
        }
        num_threads = max(1, num_usable_cores() // 2) if plan.is_apart else 0
        cluster_plan = ClusterPlan(
            target=str(folder),
            draft=plan.draft,
            target_threads=num_threads,
            draft_threads=num_threads,
            draft_port=upstream[1],
            settings=settings,
        )
        async with LocalCluster(cluster_plan, progress=progress) as cluster:
            client = cluster.connect()
            try:
                yield LinkBench(plan, client, proxy)
            finally:
                await client.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def _ms_per_token(statistics: SessionStatistics) -> float:
    num_tokens = statistics.emitted_tokens - statistics.first_tokens
    return statistics.decode_ms / max(1, num_tokens)
