"""Sizes by somebody who knows the whole day beforehand: the bound for any policy.

The work of each minute is known, in seconds of a target at a good batch. A
schedule holds so many targets in each minute that they are busy for a share
`use` of it; the cheapest of these that meets the objective is the oracle. It
orders pods in time, so its bursts cost start-up time like everybody's, and has
no drafters: it needs none to meet the objective.
"""

import math
from collections.abc import Sequence

import numpy as np

from treedraft.simulation.run import Outcome
from treedraft.simulation.service_times import ServiceTimes
from treedraft.simulation.traffic import Traffic

SLOT_SECONDS = 60.0
_BATCH = 8
USES = (0.95, 0.85, 0.75, 0.65, 0.55, 0.45)


def schedule_for(traffic: Traffic, times: ServiceTimes, use: float) -> tuple[tuple[int, int], ...]:
    """Return targets and drafters for every minute so that targets are in use for that share."""
    per_output = times.pass_of(_BATCH) / _BATCH
    work = traffic.prompts * times.seconds_per_row + traffic.outputs * per_output
    slots = (traffic.arrivals / SLOT_SECONDS).astype(np.int64)
    total = np.bincount(slots, weights=work, minlength=math.ceil(traffic.seconds / SLOT_SECONDS))
    return tuple((max(1, math.ceil(one / (SLOT_SECONDS * use))), 0) for one in total.tolist())


def cheapest(outcomes: Sequence[Outcome], attainment: float) -> Outcome:
    """Return the outcome of least hours that reaches an attainment, else the best there is."""
    reaching = [one for one in outcomes if one.attainment >= attainment]
    if reaching:
        return min(reaching, key=lambda one: one.target_hours)
    return max(outcomes, key=lambda one: one.attainment)
