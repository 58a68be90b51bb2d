"""What the rounds of a trace add up to: counts, and where their time went.

Queue, forward, walk and commit are children of the round and follow each
other. Draft and wire run beside it, so they are attributes, and their shares
say how they compare with the round and not how much of it they took.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from treedraft.telemetry import names
from treedraft.telemetry.local_store import SpanRecord

_BESIDE = {"draft": names.ATTR_ROUND_DRAFT_MS, "wire": names.ATTR_ROUND_WIRE_MS}
_INSIDE = tuple(part for part in names.ROUND_PARTS if part not in _BESIDE)


@dataclass(frozen=True, slots=True)
class RoundsSummary:
    """Sums over rounds. `part_ms` has one entry for each of `names.ROUND_PARTS`."""

    num_rounds: int
    total_ms: float
    part_ms: Mapping[str, float]
    drafted_nodes: int
    admitted_nodes: int
    accepted_nodes: int
    emitted_tokens: int
    hits: int
    misses: int

    @property
    def other_ms(self) -> float:
        """Time of the rounds that none of their parts covers."""
        return max(0.0, self.total_ms - sum(self.part_ms[part] for part in _INSIDE))

    @property
    def tokens_per_round(self) -> float:
        """τ: mean tokens emitted per round, bonus included."""
        return self.emitted_tokens / self.num_rounds if self.num_rounds else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of hits among the rounds for which something drafts."""
        return self.hits / max(self.hits + self.misses, 1)

    def share(self, milliseconds: float) -> float:
        """Return a time as a share of the rounds' wall time."""
        return milliseconds / self.total_ms if self.total_ms else 0.0


def summarise_rounds(spans: Sequence[SpanRecord]) -> RoundsSummary:
    """Add up the rounds of a trace, or any choice of its spans."""
    rounds = {span.span_id: span for span in spans if span.name == names.SPAN_ROUND}
    part_ms = dict.fromkeys(names.ROUND_PARTS, 0.0)
    for span in spans:
        if span.parent_id in rounds and span.name in _INSIDE:
            part_ms[span.name] += span.duration_ms
    for part, attribute in _BESIDE.items():
        part_ms[part] = sum(_number(span, attribute) for span in rounds.values())

    def total(attribute: str) -> int:
        return int(sum(_number(span, attribute) for span in rounds.values()))

    outcomes = [span.attributes.get(names.ATTR_ROUND_IS_HIT) for span in rounds.values()]
    return RoundsSummary(
        num_rounds=len(rounds),
        total_ms=sum(span.duration_ms for span in rounds.values()),
        part_ms=part_ms,
        drafted_nodes=total(names.ATTR_ROUND_DRAFTED),
        admitted_nodes=total(names.ATTR_ROUND_ADMITTED),
        accepted_nodes=total(names.ATTR_ROUND_ACCEPTED),
        emitted_tokens=total(names.ATTR_ROUND_EMITTED),
        hits=outcomes.count(True),
        misses=outcomes.count(False),
    )


def _number(span: SpanRecord, attribute: str) -> float:
    value = span.attributes.get(attribute, 0)
    return float(value) if isinstance(value, int | float) else 0.0
