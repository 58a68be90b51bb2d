"""What tracing costs: the same answers without spans, at the default rate, and all traced.

One cluster serves all three, since a caller's trace context decides for its
request: one that says "not sampled" is not traced, one that says "sampled" is, and
without one the coordinator draws, holding back what it did not draw. In every
repeat the three answer the same prompt, in turns that change, so what drifts is
the same for all of them; their texts are the same, token for token.
"""

import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from treedraft.bench.answer import Answer, ask
from treedraft.bench.estimate import Estimate, estimate
from treedraft.bench.plan import WITHOUT_RECENT_TRAFFIC
from treedraft.bench.prompts import conversations
from treedraft.core.generation import ChatMessage, GenerateEvent, GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.inference.stamp import Stamp, take_stamp
from treedraft.local_cluster.cluster import LocalCluster, Progress
from treedraft.local_cluster.plan import COORDINATOR, DRAFT, TARGET, ClusterPlan
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.settings import TelemetrySettings

OFF, DEFAULT, ALL = "off", "default", "all"
MODES = (OFF, DEFAULT, ALL)


@dataclass(frozen=True, slots=True)
class TracingPlan:
    """What is asked, and how often. `most_seconds` begins no repeat after so long; 0: no limit.

    Plain decoding, a round for each token, has the most spans and the steadiest pace.
    """

    target: str = "default"
    draft: str = ""
    device: str = ""
    num_tokens: int = 64
    num_repeats: int = 20
    most_seconds: float = 0.0
    is_plain: bool = False
    sample_ratio: float = field(default_factory=lambda: TelemetrySettings().sample_ratio)


@dataclass(frozen=True, slots=True)
class TracingResult:
    """Seconds of each answer by mode, repeat by repeat, and whether all said the same."""

    stamp: Stamp
    plan: TracingPlan
    seconds: Mapping[str, Sequence[float]]
    num_tokens: Sequence[int]
    is_identical: bool

    def speed(self, mode: str) -> float:
        """Return the median of tokens per second."""
        pairs = zip(self.num_tokens, self.seconds[mode], strict=True)
        return median(tokens / seconds for tokens, seconds in pairs)

    def overheads(self, mode: str) -> list[float]:
        """Return the share of speed that tracing took, in each repeat."""
        pairs = zip(self.seconds[OFF], self.seconds[mode], strict=True)
        return [1.0 - off / traced for off, traced in pairs]

    def overhead(self, mode: str) -> Estimate:
        """Return the share of speed that tracing took."""
        return estimate(self.overheads(mode))

    def cost_us(self, mode: str) -> Estimate:
        """Return the time that tracing took of each token, in microseconds.

        It hardly depends on the model, so a run on a toy, whose tokens take a
        millisecond, says more exactly what it is.
        """
        rows = zip(self.seconds[OFF], self.seconds[mode], self.num_tokens, strict=True)
        return estimate([(traced - off) / tokens * 1e6 for off, traced, tokens in rows])


class _Traced:
    """A client whose requests carry a trace context of their own."""

    def __init__(self, client: CoordinatorClient, mode: str) -> None:
        self._client = client
        self._mode = mode

    def generate(
        self, query: GenerateQuery, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[GenerateEvent, None]:
        return self._client.generate(
            query, timeout_seconds=timeout_seconds, traceparent=traceparent(self._mode)
        )


def traceparent(mode: str) -> str:
    """Return a new trace context that asks for a mode; none leaves it to the coordinator."""
    flags = {OFF: "00", ALL: "01"}.get(mode)
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{flags}" if flags else ""


def plan_cluster(plan: TracingPlan) -> ClusterPlan:
    """Return the processes of a run."""
    ratio = {
        f"TREEDRAFT_{role.upper()}__TELEMETRY__SAMPLE_RATIO": str(plan.sample_ratio)
        for role in (COORDINATOR, TARGET, DRAFT)
    }
    return ClusterPlan(
        target=plan.target,
        draft=plan.draft,
        device=plan.device,
        settings={**WITHOUT_RECENT_TRAFFIC, **ratio},
    )


async def measure_tracing(
    plan: TracingPlan, progress: Progress, *, clock: Callable[[], float] = time.perf_counter
) -> TracingResult:
    """Start a cluster and ask every prompt in every mode."""
    stamp = take_stamp()
    async with LocalCluster(plan_cluster(plan), progress=progress) as cluster:
        client = cluster.connect()
        try:
            return await _measure(plan, stamp, client, progress, clock)
        finally:
            await client.close()


async def _measure(
    plan: TracingPlan,
    stamp: Stamp,
    client: CoordinatorClient,
    progress: Progress,
    clock: Callable[[], float],
) -> TracingResult:
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    num_tokens: list[int] = []
    is_identical, began = True, clock()
    for repeat, prompt in enumerate(conversations(plan.num_repeats, salt="tracing ")):
        if repeat and plan.most_seconds and clock() - began > plan.most_seconds:
            break
        progress(f"measuring {repeat + 1}/{plan.num_repeats}")
        # Not counted: after it the prompt's pages are shared for all three.
        first = await _ask(client, OFF, prompt, plan)
        for place in range(len(MODES)):
            mode = MODES[(repeat + place) % len(MODES)]
            started = clock()
            answer = await _ask(client, mode, prompt, plan)
            seconds[mode].append(clock() - started)
            is_identical &= answer.token_ids == first.token_ids
        num_tokens.append(len(first.token_ids))
    return TracingResult(stamp, plan, seconds, num_tokens, is_identical)


async def _ask(
    client: CoordinatorClient, mode: str, prompt: tuple[ChatMessage, ...], plan: TracingPlan
) -> Answer:
    query = GenerateQuery(
        conversation=prompt,
        sampling=SamplingParameters(temperature=0.0),
        stopping=StoppingCriteria(max_tokens=plan.num_tokens, ignore_eos=True),
        speculation=SpeculationOptions(enabled=not plan.is_plain),
    )
    return await ask(_Traced(client, mode), query)


def markdown(result: TracingResult) -> str:
    """Return the table, and what it was made on."""
    words = {
        OFF: "no request traced",
        DEFAULT: f"default: {result.plan.sample_ratio:.0%} by lot, the rest held back",
        ALL: "every request traced",
    }
    lines = ["| tracing | tok/s | share of speed | µs a token |", "|:---|---:|---:|---:|"]
    for mode in MODES:
        share, low, high = result.overhead(mode)
        cost, least, most = result.cost_us(mode)
        numbers = f"{share:.2%} ({low:.2%} to {high:.2%}) | {cost:.0f} ({least:.0f} to {most:.0f})"
        speed = f"{result.speed(mode):.1f}"
        lines.append(f"| {words[mode]} | {speed} | {numbers if mode != OFF else '|'} |")
    plan, stamp = result.plan, result.stamp
    drafts = "no drafts" if plan.is_plain else plan.draft or "lookup"
    same = "identical texts" if result.is_identical else "TEXTS DIFFER"
    return "\n".join(
        [
            *lines,
            "",
            f"{len(result.num_tokens)} prompts of {plan.num_tokens} tokens each, one at a time, in "
            f"turns; {same}; medians, and where 95 % of resampled ones lie. {plan.target} with "
            f"{drafts}; {stamp.machine}; commit {stamp.commit}, load before "
            f"{stamp.load_before}.",
        ]
    )


def to_json(result: TracingResult) -> str:
    """Return all of it, the derived numbers and the table included."""
    derived = {
        mode: {
            "tokens_per_second": result.speed(mode),
            "overhead": result.overhead(mode)[0],
            "overhead_interval": result.overhead(mode)[1:],
            "cost_us": result.cost_us(mode)[0],
            "cost_us_interval": result.cost_us(mode)[1:],
        }
        for mode in MODES
    }
    document = {**asdict(result), "modes": derived, "table": markdown(result)}
    return json.dumps(document, indent=2, ensure_ascii=False)
