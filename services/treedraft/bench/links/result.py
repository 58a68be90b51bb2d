"""What a run over links found, as values, as a table and as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median

from treedraft.bench.links.plan import Exchange, LinksPlan
from treedraft.inference.stamp import Stamp


@dataclass(frozen=True, slots=True)
class LinkSample:
    """A text with drafts over a link, beside the same kind of text without, both just now.

    Times are from the first token to the last. `num_bytes` is what came from the drafter,
    frames and all.
    """

    exchange: str
    round_trip_ms: float
    plain_ms_per_token: float
    ms_per_token: float
    tokens_per_round: float
    hit_rate: float
    num_nodes: int
    num_bytes: int
    is_same_text: bool


@dataclass(frozen=True, slots=True)
class LinkPoint:
    """All samples of one exchange over one link."""

    exchange: str
    round_trip_ms: float
    speed_up: float
    tokens_per_round: float
    hit_rate: float
    bytes_per_node: float
    is_same_text: bool


@dataclass(frozen=True, slots=True)
class LinksResult:
    """A whole run; `pass_ms` is what a plain pass took."""

    stamp: Stamp
    plan: LinksPlan
    pass_ms: float
    samples: tuple[LinkSample, ...]

    def points(self) -> list[LinkPoint]:
        """Return a point for each exchange and round trip, in the order measured."""
        groups: dict[tuple[str, float], list[LinkSample]] = {}
        for sample in self.samples:
            groups.setdefault((sample.exchange, sample.round_trip_ms), []).append(sample)
        return [_point(samples) for samples in groups.values()]

    def best_sync(self, round_trip_ms: float) -> LinkPoint | None:
        """Return the synchronous exchange at its own best budget over a link."""
        return max(
            (p for p in self.points() if p.round_trip_ms == round_trip_ms and _is_sync(p)),
            key=lambda point: point.speed_up,
            default=None,
        )


def _is_sync(point: LinkPoint) -> bool:
    return point.exchange != Exchange().name


def _point(samples: list[LinkSample]) -> LinkPoint:
    num_nodes = sum(sample.num_nodes for sample in samples)
    plain_ms = sum(sample.plain_ms_per_token for sample in samples)
    return LinkPoint(
        exchange=samples[0].exchange,
        round_trip_ms=samples[0].round_trip_ms,
        speed_up=plain_ms / sum(sample.ms_per_token for sample in samples),
        tokens_per_round=median(sample.tokens_per_round for sample in samples),
        hit_rate=sum(sample.hit_rate for sample in samples) / len(samples),
        bytes_per_node=sum(sample.num_bytes for sample in samples) / max(1, num_nodes),
        is_same_text=all(sample.is_same_text for sample in samples),
    )


def markdown(result: LinksResult) -> str:
    """Return the curve as a table, and the conditions."""
    lines = [
        "| round trip | exchange | S | τ | S/τ | hits | bytes a node | × best sync | same text |",
        "| --: | :-- | --: | --: | --: | --: | --: | --: | :-- |",
    ]
    for point in result.points():
        sync = result.best_sync(point.round_trip_ms)
        times = f"{point.speed_up / sync.speed_up:.2f}" if sync and not _is_sync(point) else ""
        lines.append(
            f"| {point.round_trip_ms:.0f} ms | {point.exchange} | {point.speed_up:.2f} "
            f"| {point.tokens_per_round:.2f} | {point.speed_up / point.tokens_per_round:.2f} "
            f"| {point.hit_rate:.0%} | {point.bytes_per_node:.1f} | {times} "
            f"| {'yes' if point.is_same_text else 'NO'} |"
        )
    stamp, plan = result.stamp, result.plan
    conditions = (
        f"Decoding without the prompt, greedy, {plan.num_prompts} prompts × {plan.num_tokens} "
        f"tokens × {plan.num_repeats}, each beside a plain text of the same moment (S is over "
        f"it); a plain pass took {result.pass_ms:.1f} ms. {stamp.num_cores} cores, "
        f"{'half of them for each of the two' if plan.is_apart else 'shared'}, commit "
        f"{stamp.commit}."
    )
    return "\n".join([*lines, "", conditions])


def to_json(result: LinksResult) -> str:
    """Return all of it."""
    points: list[Mapping[str, object]] = [asdict(point) for point in result.points()]
    document = {**asdict(result), "points": points, "table": markdown(result)}
    return json.dumps(document, indent=1, ensure_ascii=False)
