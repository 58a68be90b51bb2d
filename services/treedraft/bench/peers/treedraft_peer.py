"""treedraft itself among its peers: the real cluster, asked over gRPC."""

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from treedraft.bench.answer import ask
from treedraft.bench.peers.plan import FLOAT32, SPECULATIVE, PeersPlan, Row
from treedraft.bench.peers.result import Reply
from treedraft.core.generation import GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.local_cluster.cluster import LocalCluster, Progress
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.rpc.coordinator_client import CoordinatorClient


class TreedraftPeer:
    """A cluster for one row; an async context manager.

    Every row has a cluster of its own: in one that is shared, the second to ask
    would find the pages of the first and would not pay for its prompts.
    """

    def __init__(self, plan: ClusterPlan, progress: Progress) -> None:
        """Remember what to start."""
        self._plan = plan
        self._progress = progress
        self._stack = AsyncExitStack()
        self._client: CoordinatorClient | None = None
        self.packages: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        """Start the cluster and wait until it is ready."""
        cluster = LocalCluster(self._plan, progress=self._progress)
        await self._stack.enter_async_context(cluster)
        self._client = CoordinatorClient(cluster.endpoint)
        self._stack.push_async_callback(self._client.close)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the cluster."""
        await self._stack.aclose()

    async def generate(self, mode: str, prompt_ids: Sequence[int], num_tokens: int) -> Reply:
        """Continue a prompt greedily by that many tokens."""
        assert self._client is not None
        query = GenerateQuery(
            token_ids=tuple(prompt_ids),
            sampling=SamplingParameters(temperature=0.0),
            stopping=StoppingCriteria(max_tokens=num_tokens, ignore_eos=True),
            speculation=SpeculationOptions(enabled=mode == SPECULATIVE),
        )
        started = time.perf_counter()
        answer = await ask(self._client, query)
        seconds = time.perf_counter() - started
        return Reply(seconds, answer.token_ids, answer.finished.statistics.rounds)


def plan_cluster(plan: PeersPlan, row: Row, folder: str) -> ClusterPlan:
    """Return the processes of a row; plain decoding has no drafter beside it."""
    is_speculative = row.mode == SPECULATIVE
    return ClusterPlan(
        target=folder,
        draft=plan.draft if is_speculative else "",
        num_drafters=1 if is_speculative else 0,
        dtype=FLOAT32,
        weights="" if row.precision == FLOAT32 else row.precision,
        device="cpu",
        target_threads=plan.num_threads,
        settings=plan.settings,
    )
