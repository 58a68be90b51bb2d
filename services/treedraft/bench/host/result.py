"""What a run over the host's costs found, as values, as tables and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from treedraft.core.session import RoundTimes
from treedraft.inference.stamp import Stamp


@dataclass(frozen=True, slots=True)
class HostPoint:
    """A step with so many sessions, in milliseconds.

    `step_ms` is what it takes around the toy, `toy_ms` what the toy's pass takes by
    itself; `parts` are the means of a session's rounds; `pass_ms` is a pass of the real
    target over as many rows. `engine_ms` is processor time of the engine's thread for a
    step, the toy's share of that thread included. `falls` says where the time of that thread
    beside the pass falls, by what is done: a profile's shares of `thread_ms`, since a profile
    makes all that it looks at slower. With drafts, `num_nodes` are those of a session in the
    step and `num_tokens` what it makes of them.
    """

    num_sessions: int
    step_ms: float
    toy_ms: float
    parts: RoundTimes
    pass_ms: float
    engine_ms: float = 0.0
    falls: Mapping[str, float] = field(default_factory=dict)
    num_nodes: int = 0
    num_tokens: float = 1.0

    @property
    def host_ms(self) -> float:
        """What a step takes beside its pass."""
        return max(0.0, self.step_ms - self.toy_ms)

    @property
    def thread_ms(self) -> float:
        """Processor time of the engine's thread beside the pass; no waits are in it."""
        return max(0.0, self.engine_ms - self.toy_ms)

    @property
    def share(self) -> float:
        """Share of a step with the real target."""
        return self.host_ms / (self.host_ms + self.pass_ms)


@dataclass(frozen=True, slots=True)
class FramePoint:
    """The frame of one step of so many sessions: processor milliseconds of either end, bytes.

    `by` says how sessions are told of in it: by number in columns, or by name, a message each.
    """

    num_sessions: int
    by: str
    said_ms: float
    understood_ms: float
    num_bytes: int


@dataclass(frozen=True, slots=True)
class HostResult:
    """A whole run."""

    stamp: Stamp
    target: str
    num_steps: int
    points: tuple[HostPoint, ...]
    frames: tuple[FramePoint, ...] = ()
    drafted: tuple[HostPoint, ...] = ()


def markdown(result: HostResult) -> str:
    """Return the tables, and the conditions."""
    conditions = (
        f"The engine around a toy, {result.num_steps} steps with all sessions in them, greedy; "
        f"what the parts leave of a host step lays rows out. The engine's thread is its processor "
        f"time, the toy's pass on it included. The pass is one of {result.target} in float32 over "
        f"as many rows. {result.stamp.machine}; commit {result.stamp.commit}."
    )
    tables = [_engine_table(result.points), _falls_table(result.points), _frames(result.frames)]
    if result.drafted:
        tables[2:2] = [_drafted_table(result.drafted), _falls_table(result.drafted)]
    return "\n\n".join([*filter(None, tables), conditions])


def _engine_table(points: Sequence[HostPoint]) -> str:
    rows = [
        [
            f"{p.num_sessions}",
            f"{p.host_ms:.2f}",
            *(f"{part:.2f}" for part in (p.parts.queue, p.parts.walk, p.parts.commit)),
            f"{p.pass_ms:.1f}",
            f"{p.share:.1%}",
            f"{p.engine_ms:.2f}",
        ]
        for p in points
    ]
    heads = ("sessions", "host ms a step", "plan and tell", "walk", "commit")
    return _table((*heads, "pass ms", "share", "engine's thread"), rows)


def _drafted_table(points: Sequence[HostPoint]) -> str:
    rows = [
        [
            f"{p.num_sessions}",
            f"{p.num_nodes}",
            f"{p.num_tokens:.2f}",
            *(f"{part:.3f}" for part in (p.parts.walk, p.parts.commit)),
            f"{p.thread_ms:.3f}",
        ]
        for p in points
    ]
    heads = ("sessions", "nodes each", "tokens each", "walk", "commit", "thread beside the pass")
    return _table(heads, rows)


def _falls_table(points: Sequence[HostPoint]) -> str:
    kinds = sorted(
        {kind for point in points for kind in point.falls},
        key=lambda kind: -points[-1].falls.get(kind, 0.0),
    )
    rows = [[kind, *(f"{point.falls.get(kind, 0.0):.3f}" for point in points)] for kind in kinds]
    heads = [f"{point.num_sessions} sessions" for point in points]
    return _table(["ms of the thread a step", *heads], rows) if kinds else ""


def _frames(points: Sequence[FramePoint]) -> str:
    rows = [
        [
            f"{p.num_sessions}",
            p.by,
            f"{p.said_ms:.3f}",
            f"{p.understood_ms:.3f}",
            f"{p.num_bytes / p.num_sessions:.1f}",
        ]
        for p in points
    ]
    heads = ("sessions", "told by", "ms to write", "ms to read", "bytes a session")
    return _table(heads, rows) if rows else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["--:"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_json(result: HostResult) -> str:
    """Return all of it."""
    document = {
        **asdict(result),
        "host_ms": [point.host_ms for point in result.points],
        "share": [point.share for point in result.points],
        "table": markdown(result),
    }
    return json.dumps(document, indent=1, ensure_ascii=False)
