"""How often the outcome of a pass was foreseen, by the nodes kept beyond the verified ones.

What a pass draws where its walk ends is in the tree (a hit) or costs the drafter a
fresh start. A hit that nothing was drafted below leaves the next pass without drafts all
the same, so beside hits stands how many rounds were ready: had a drafted node to verify.

Nodes that are grown and not verified are there for that alone: deeper ones below the
verified, or wider ones beside them. To see what they are worth, whatever the machine's
speed, each step here waits for the whole tree, and a pass verifies its best nodes, always as
many. A place is expanded, and a child kept, by the score of its path: the outcomes that are
likeliest are those of the best scores, deep or wide.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from treedraft.bench.answer import Asking, ask
from treedraft.bench.plan import WITHOUT_RECENT_TRAFFIC
from treedraft.bench.prompts import conversations
from treedraft.core.generation import GenerateQuery
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.inference.stamp import Stamp, take_stamp
from treedraft.local_cluster.cluster import LocalCluster, Progress
from treedraft.local_cluster.plan import ClusterPlan, synchronous_settings

_SEED = 7


@dataclass(frozen=True, slots=True)
class HitsPlan:
    """Trees to compare: how wide, and down to which score of a path nodes are kept.

    `num_children` are named for a node; `least_scores` are logs of the survival below which a
    child is held back. Places are grown on down to `min_score`, `num_rows` in a step.
    """

    target: str = "default"
    draft: str = ""
    num_verified: int = 8
    least_scores: tuple[float, ...] = (-3.0, -4.0, -5.0, -6.0, -7.0)
    num_children: tuple[int, ...] = (4, 16)
    min_score: float = -6.0
    num_rows: int = 12
    max_nodes: int = 320
    temperatures: tuple[float, ...] = (0.0,)
    num_prompts: int = 4
    num_tokens: int = 48
    settings: Mapping[str, str] = field(default_factory=lambda: dict(WITHOUT_RECENT_TRAFFIC))


@dataclass(frozen=True, slots=True)
class HitsPoint:
    """What one kind of tree foresaw, and the nodes that were sent for it.

    `ready_rate` is the share of rounds whose pass began with at least one drafted node.
    """

    temperature: float
    least_score: float
    num_children: int
    hit_rate: float
    tokens_per_round: float
    nodes_per_round: float
    ready_rate: float


@dataclass(frozen=True, slots=True)
class HitsResult:
    """A whole run."""

    stamp: Stamp
    plan: HitsPlan
    points: tuple[HitsPoint, ...]


async def run_hits(plan: HitsPlan, folder: Path, progress: Progress) -> HitsResult:
    """Measure each kind of tree on the same prompts.

    Args:
        plan: what to measure; `target` is only a name here.
        folder: of the target's weights.
        progress: told in words what is measured.
    """
    stamp, points = take_stamp(), []
    for num_children in plan.num_children:
        for least_score in plan.least_scores:
            progress(f"{num_children} children, down to {least_score:g}")
            cluster_plan = ClusterPlan(
                target=str(folder),
                draft=plan.draft,
                settings=_settings(plan, least_score, num_children),
            )
            async with LocalCluster(cluster_plan) as cluster:
                client = cluster.connect()
                try:
                    for temperature in plan.temperatures:
                        found = await measure(client, plan, temperature)
                        points.append(HitsPoint(temperature, least_score, num_children, *found))
                finally:
                    await client.close()
    return HitsResult(stamp, plan, tuple(points))


def _settings(plan: HitsPlan, least_score: float, num_children: int) -> dict[str, str]:
    return {
        **plan.settings,
        **synchronous_settings(plan.max_nodes),
        "TREEDRAFT_TARGET__BUDGET__MODE": "fixed",
        "TREEDRAFT_TARGET__BUDGET__MAX_NODES": str(plan.num_verified),
        "TREEDRAFT_DRAFT__GROWTH__NUM_CHILDREN": str(num_children),
        "TREEDRAFT_DRAFT__GROWTH__MIN_SCORE": str(max(plan.min_score, least_score)),
        "TREEDRAFT_DRAFT__GROWTH__MIN_CHILD_SCORE": str(least_score),
        "TREEDRAFT_DRAFT__GROWTH__MAX_ROWS_PER_SESSION": str(plan.num_rows),
        "TREEDRAFT_DRAFT__LOOKUP__ENABLED": "false",
    }


async def measure(
    client: Asking, plan: HitsPlan, temperature: float
) -> tuple[float, float, float, float]:
    """Return hit rate, tokens and drafted nodes a round, and the share of rounds with drafts.

    Over all prompts, one after the other.
    """
    counted: Counter[str] = Counter()
    ready: list[bool] = []
    for conversation in conversations(plan.num_prompts, salt="hits "):
        query = GenerateQuery(
            conversation=conversation,
            sampling=SamplingParameters(temperature=temperature, seed=_SEED),
            stopping=StoppingCriteria(max_tokens=plan.num_tokens, ignore_eos=True),
            watch_rounds=True,
        )
        answer = await ask(
            client,
            query,
            on_delta=lambda delta: ready.extend(bool(one.token_ids) for one in delta.rounds),
        )
        one = answer.finished.statistics
        counted += Counter(
            hits=one.hits,
            outcomes=one.hits + one.misses,
            rounds=one.rounds,
            tokens=one.emitted_tokens,
            nodes=one.drafted_nodes,
        )
    rounds = max(1, counted["rounds"])
    return (
        counted["hits"] / max(1, counted["outcomes"]),
        counted["tokens"] / rounds,
        counted["nodes"] / rounds,
        sum(ready) / max(1, len(ready)),
    )


def markdown(result: HitsResult) -> str:
    """Return a table for each temperature: a row for each width, a column for each limit."""
    plan = result.plan
    lines: list[str] = []
    for temperature in plan.temperatures:
        kept = [f"down to {score:g}" for score in plan.least_scores]
        lines += [_row([f"T = {temperature:g}", *kept]), _row(["---"] * (len(kept) + 1))]
        for num_children in plan.num_children:
            cells = [
                f"{point.hit_rate:.0%}, ready {point.ready_rate:.0%}, "
                f"τ {point.tokens_per_round:.2f}, "
                f"{point.nodes_per_round:.0f} nodes"
                for point in result.points
                if (point.temperature, point.num_children) == (temperature, num_children)
            ]
            lines.append(_row([f"{num_children} children", *cells]))
        lines.append("")
    lines.append(
        f"{plan.num_verified} nodes verified in each pass; {plan.num_prompts} prompts × "
        f"{plan.num_tokens} tokens, without lookup. Commit {result.stamp.commit}."
    )
    return "\n".join(lines)


def to_json(result: HitsResult) -> str:
    """Return all of it."""
    return json.dumps({**asdict(result), "table": markdown(result)}, indent=1, ensure_ascii=False)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
