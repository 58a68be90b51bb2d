"""Sizes by somebody who knows the whole day beforehand: the bound for any policy.

The work of each minute is known, in seconds of a target at a good batch. A
schedule follows the middle of it (a running median, which bursts do not move) so
that targets are busy for a share `use` of the time, and holds besides as much of
each burst as it means to serve. The cheapest of these that meets the objective
is the oracle. It orders pods in time, so its bursts cost start-up time like
everybody's, and has no drafters: it needs none to meet the objective.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from treedraft.simulation.run import Outcome
from treedraft.simulation.service_times import ServiceTimes
from treedraft.simulation.traffic import Numbers, Traffic

SLOT_SECONDS = 60.0
_BATCH = 8
# The densest first: the first that meets the objective is the cheapest of its kind.
USES = (
    *(1.4, 1.3, 1.25, 1.225, 1.2, 1.175, 1.15, 1.125, 1.1, 1.075, 1.05),
    *(1.0, 0.9, 0.75, 0.6, 0.45),
)
# Who serves bursts whole buys more than the objective asks for.
BURST_SHARES = (0.0, 0.5)
# Minutes on both sides over which the middle is taken, and what sticks out of it.
_HALF_WINDOW = 10
_BURST = 1.6


@dataclass(frozen=True, slots=True)
class OraclePlan:
    """How full targets are to be, and what part of a burst's extra work is served."""

    use: float
    burst_share: float = 1.0


def work_by_slot(traffic: Traffic, times: ServiceTimes) -> Numbers:
    """Return the seconds of a target that the arrivals of each minute ask for."""
    per_output = times.pass_of(_BATCH) / _BATCH
    work = traffic.prompts * times.seconds_per_row + traffic.outputs * per_output
    slots = (traffic.arrivals / SLOT_SECONDS).astype(np.int64)
    length = math.ceil(traffic.seconds / SLOT_SECONDS)
    return np.asarray(np.bincount(slots, weights=work, minlength=length)[:length])


def schedule_for(
    traffic: Traffic, times: ServiceTimes, plan: OraclePlan
) -> tuple[tuple[int, int], ...]:
    """Return targets and drafters for every minute."""
    work = work_by_slot(traffic, times)
    padded = np.pad(work, _HALF_WINDOW, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _HALF_WINDOW + 1)
    middle = np.median(windows, axis=1)
    extra = np.where(work > _BURST * middle, work - middle, 0.0)
    total = (middle + plan.burst_share * extra) / (SLOT_SECONDS * plan.use)
    return tuple((max(1, math.ceil(one)), 0) for one in total.tolist())


def densest(
    run: Callable[[float], Outcome], attainment: float, uses: Sequence[float] = USES
) -> Iterator[Outcome]:
    """Yield the outcomes of a search, by halves, for the fullest targets that reach the attainment.

    Emptier ones reach more, so the last that reached it is the cheapest of its kind.
    """
    low, high = 0, len(uses)
    while low < high:
        middle = (low + high) // 2
        outcome = run(uses[middle])
        yield outcome
        if outcome.attainment >= attainment:
            high = middle
        else:
            low = middle + 1


def cheapest(
    outcomes: Sequence[Outcome], attainment: float, cost: Callable[[Outcome], float]
) -> Outcome:
    """Return the outcome of least cost that reaches an attainment, else the best there is."""
    reaching = [one for one in outcomes if one.attainment >= attainment]
    if reaching:
        return min(reaching, key=cost)
    return max(outcomes, key=lambda one: one.attainment)
