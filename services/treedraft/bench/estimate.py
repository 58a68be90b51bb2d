"""A median, and how sure it is."""

import random
from collections.abc import Sequence
from statistics import median

_NUM_RESAMPLES = 2000
_SEED = 7

Estimate = tuple[float, float, float]
"""A median, and the ends of its interval."""


def estimate(values: Sequence[float]) -> Estimate:
    """Return the median of values and the 95 % interval of resampled medians."""
    draw = random.Random(_SEED)
    medians = sorted(median(draw.choices(values, k=len(values))) for _ in range(_NUM_RESAMPLES))
    edge = _NUM_RESAMPLES // 40
    return median(values), medians[edge], medians[-edge - 1]
