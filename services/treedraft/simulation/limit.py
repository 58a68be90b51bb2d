"""What can be met at best where bursts cannot be foreseen: a bound, from the prompts alone.

A pod that is ordered in a burst is ready when it is over, so a burst is served by
what stands there: `room` times the load before it. It is all prompts here, whose
work is their length; nothing is missed outside bursts, and decoding is free.
"""

import numpy as np

from treedraft.simulation.traffic import Traffic, TrafficPlan

# The last prompt of a burst must have begun by then; 15 s less what it takes.
_SLACK_SECONDS = 13.0


def attainment_limit(
    traffic: Traffic, plan: TrafficPlan, room: float, *, is_first_come: bool = False
) -> float:
    """Return the greatest share of requests that can be met.

    Args:
        traffic: with the instants at which its bursts begin.
        plan: it was made by: how long bursts last and how high they are.
        room: what stands there, in loads before the burst.
        is_first_come: whether all wait in one line; else the longest are refused.
    """
    num_missed = 0.0
    for start in traffic.bursts:
        inside = (traffic.arrivals >= start) & (traffic.arrivals < start + plan.burst_seconds)
        prompts = np.sort(traffic.prompts[inside])
        load = len(prompts) / plan.burst_factor / plan.burst_seconds * traffic.prompts.mean()
        served = room * load * (plan.burst_seconds + _SLACK_SECONDS)
        if is_first_come:
            num_missed += len(prompts) * max(0.0, 1.0 - served / max(1.0, prompts.sum()))
        else:
            num_missed += float((np.cumsum(prompts) > served).sum())
    return 1.0 - num_missed / max(1, len(traffic.arrivals))
