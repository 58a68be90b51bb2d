"""What passes cost and trees bring, as `treedraft judge` measured it.

The cost of a pass by rows and the tokens per pass by node budget are measured
points with straight lines between them; beyond the last point a pass goes on
with its last slope. A prompt token costs what a row more costs there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from treedraft.core.errors import InvalidRequestError

SHIPPED = "smollm2-2-cores"
_TEMPERATURE = 0.7
# Levels of a tree, each a step of the drafter, of which the deeper bring little.
_LEVELS = 6
_MAX_NODES = 16
_FEW_SESSIONS = (1, 2, 4)


@dataclass(frozen=True)
class ServiceTimes:
    """Measured costs of one target and one drafter.

    Attributes:
        source: where they were measured, in words.
        rows: numbers of rows of the measured passes, ascending.
        pass_seconds: duration of each of these passes.
        budgets: node budgets of the measured trees, ascending, the first 0.
        tokens_per_round: tokens per pass at each budget, the first 1.
        draft_step_seconds: a drafter's step over one row, and for each row more.
    """

    source: str
    rows: tuple[float, ...]
    pass_seconds: tuple[float, ...]
    budgets: tuple[int, ...]
    tokens_per_round: tuple[float, ...]
    draft_step_seconds: tuple[float, float]

    @cached_property
    def seconds_per_row(self) -> float:
        """What a row more costs in a large pass: the price of a prompt token."""
        (rows, more), (seconds, later) = self.rows[-2:], self.pass_seconds[-2:]
        return (later - seconds) / (more - rows)

    @cached_property
    def verification_cost(self) -> float:
        """What a pass over the best trees costs, in plain passes, for a few sessions at once."""
        ratios = [self.best_round(n).seconds / self.pass_of(n) for n in _FEW_SESSIONS]
        return sum(ratios) / len(ratios)

    def pass_of(self, num_rows: float) -> float:
        """Return the duration of a pass over so many rows."""
        if num_rows > self.rows[-1]:
            return self.pass_seconds[-1] + (num_rows - self.rows[-1]) * self.seconds_per_row
        return float(np.interp(num_rows, self.rows, self.pass_seconds))

    def rows_within(self, seconds: float) -> float:
        """Return over how many rows a pass may go in so long."""
        if seconds > self.pass_seconds[-1]:
            return self.rows[-1] + (seconds - self.pass_seconds[-1]) / self.seconds_per_row
        return float(np.interp(seconds, self.pass_seconds, self.rows))

    def best_round(self, num_sessions: int, num_chunk: int = 0) -> "Round":
        """Return the round that gets most done in its time, for sessions that all have drafts.

        A token is worth what it costs without speculation, and a prompt token what
        a row costs: nodes that hold up prompts for longer than they bring tokens
        do not pay.

        Args:
            num_sessions: that decode in the pass.
            num_chunk: prompt tokens in it.
        """
        plain, prompt = self.pass_of(num_sessions), num_chunk * self.seconds_per_row

        def worth(one: "Round") -> float:
            return (one.tokens * plain + prompt) / one.seconds

        rounds = [
            Round(tokens, self.pass_of(num_sessions * (1 + nodes) + num_chunk), nodes)
            for nodes, tokens in zip(self.budgets, self.tokens_per_round, strict=True)
        ]
        return max(rounds, key=worth)

    def sessions_per_drafter(self, round_seconds: float) -> float:
        """Return how many sessions a drafter keeps in trees while a target's round lasts."""
        first, more = self.draft_step_seconds
        return max(0.0, 1.0 + (round_seconds / _LEVELS - first) / more)


@dataclass(frozen=True, slots=True)
class Round:
    """A pass of a target: tokens for each session, duration, nodes for each session."""

    tokens: float
    seconds: float
    nodes: int


def load_service_times(source: str | Path = SHIPPED) -> ServiceTimes:
    """Read costs from a drafter's report, or take the shipped ones.

    Raises:
        InvalidRequestError: reason UNREADABLE_REPORT, it is no such report.
    """
    shipped = files("treedraft.simulation") / "measured" / f"{source}.json"
    try:
        text = shipped.read_text() if shipped.is_file() else Path(source).read_text()
        return _from_report(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InvalidRequestError(
            f"{source} is no report of `treedraft judge`: {error!r}",
            field="measured",
            reason="UNREADABLE_REPORT",
        ) from error


def _from_report(report: Mapping[str, Any]) -> ServiceTimes:
    stamp, target, drafter = report["stamp"], report["target"], report["drafter"]
    cost = report["cost"]
    points = _lengths(report["lengths"])
    return ServiceTimes(
        source=f"{target['name']} in {target['dtype']} with {drafter['name']} on "
        f"{stamp['num_cores']} cores of {stamp['processor']}, commit {stamp['commit']}",
        rows=tuple(float(rows) for rows, _ in cost["target_ms"]),
        pass_seconds=tuple(milliseconds / 1e3 for _, milliseconds in cost["target_ms"]),
        budgets=(0, *(budget for budget, _ in points)),
        tokens_per_round=(1.0, *(tokens for _, tokens in points)),
        draft_step_seconds=_draft_step(cost["draft_steps"]),
    )


def _lengths(lengths: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return the best tokens per pass by budget, over all shapes, in ascending order."""
    best: dict[int, float] = {}
    for one in lengths:
        budget = int(one["shape"]["budget"])
        if one["temperature"] == _TEMPERATURE and not one["category"] and budget <= _MAX_NODES:
            best[budget] = max(best.get(budget, 1.0), float(one["tau"]))
    return sorted(best.items())


def _draft_step(steps: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    by_rows = {
        int(step["num_rows"]): float(step["milliseconds"]) / 1e3
        for step in steps
        if step["temperature"] == _TEMPERATURE
    }
    fewest, most = min(by_rows), max(by_rows)
    return by_rows[fewest], (by_rows[most] - by_rows[fewest]) / (most - fewest)
