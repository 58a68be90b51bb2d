"""Who asks when, for how much: made by a plan and a seed, or read from a file.

The plan of the bars is fixed: a day with a 6:1 curve, bursts of four times the
rate for 90 s at random, log-normal lengths of prompt (median 600) and output
(median 180), one node lost. It was written down before the policy was tuned.
"""

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from treedraft.core.errors import InvalidRequestError

Numbers = npt.NDArray[np.float64]
_RESOLUTION_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """What traffic is like."""

    hours: float = 24.0
    peak_rate: float = 6.0  # requests a second at the top of the day
    peak_to_trough: float = 6.0
    bursts_per_day: float = 4.0
    burst_factor: float = 4.0
    burst_seconds: float = 90.0
    prompt_median: float = 600.0
    output_median: float = 180.0
    sigma: float = 0.8  # of the logarithms of both lengths
    max_prompt: float = 4000.0
    max_output: float = 2000.0
    num_losses: int = 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests by arrival, and when a node is lost.

    Attributes:
        arrivals: seconds, ascending.
        prompts: tokens of each prompt.
        outputs: tokens of each output.
        losses: instants at which a target's node fails.
        seconds: length of the whole.
    """

    arrivals: Numbers
    prompts: Numbers
    outputs: Numbers
    losses: tuple[float, ...]
    seconds: float
    bursts: tuple[float, ...] = field(default=())


def make_traffic(plan: TrafficPlan, seed: int) -> Traffic:
    """Return the traffic of a plan; the same for the same seed.

    Arrivals are a Poisson process of the plan's rate.
    """
    rng = np.random.default_rng(seed)
    seconds = plan.hours * 3600.0
    num_bursts = rng.poisson(plan.bursts_per_day * plan.hours / 24.0)
    bursts = tuple(np.sort(rng.uniform(0.0, seconds, num_bursts)).tolist())
    times = np.arange(0.0, seconds, _RESOLUTION_SECONDS)
    counts = rng.poisson(_rates(plan, times, bursts) * _RESOLUTION_SECONDS)
    starts = np.repeat(times, counts)
    arrivals = np.sort(starts + rng.uniform(0.0, _RESOLUTION_SECONDS, len(starts)))
    prompts = rng.lognormal(math.log(plan.prompt_median), plan.sigma, len(arrivals))
    outputs = rng.lognormal(math.log(plan.output_median), plan.sigma, len(arrivals))
    losses = np.sort(rng.uniform(0.25 * seconds, 0.9 * seconds, plan.num_losses))
    return Traffic(
        arrivals,
        np.clip(np.round(prompts), 1.0, plan.max_prompt),
        np.clip(np.round(outputs), 1.0, plan.max_output),
        tuple(losses.tolist()),
        seconds,
        bursts,
    )


def read_traffic(path: Path) -> Traffic:
    """Read `arrival_seconds,prompt_tokens,output_tokens` rows, with that line on top.

    Raises:
        InvalidRequestError: reason UNREADABLE_TRACE, with the line.
    """
    rows = []
    try:
        with path.open(newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                rows.append(_row(path, number, row))
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    if not rows:
        raise _unreadable(path, "it holds no request")
    table = np.array(sorted(rows), dtype=np.float64)
    return Traffic(table[:, 0], table[:, 1], table[:, 2], (), float(table[-1, 0]) + 60.0)


def _row(path: Path, number: int, row: dict[str, str]) -> tuple[float, float, float]:
    try:
        arrival, prompt, output = (
            float(row[name]) for name in ("arrival_seconds", "prompt_tokens", "output_tokens")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"line {number}: {error!r}") from error
    if not (0 <= arrival < math.inf and 1 <= prompt < math.inf and 1 <= output < math.inf):
        raise _unreadable(path, f"line {number}: numbers out of range")
    return arrival, prompt, output


def _unreadable(path: Path, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{path}: {why}", field="trace", reason="UNREADABLE_TRACE")


def _rates(plan: TrafficPlan, times: Numbers, bursts: tuple[float, ...]) -> Numbers:
    """Return requests a second: a cosine over the day, and bursts on top of it."""
    low = plan.peak_rate / plan.peak_to_trough
    middle, swing = (plan.peak_rate + low) / 2.0, (plan.peak_rate - low) / 2.0
    rates = middle - swing * np.cos(2.0 * np.pi * times / 86_400.0)
    factors = np.ones_like(times)
    for start in bursts:
        factors[(times >= start) & (times < start + plan.burst_seconds)] = plan.burst_factor
    return np.asarray(rates * factors)
