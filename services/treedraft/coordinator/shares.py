"""Which pool a new session goes to: at random, by the pools' shares.

A pure function of shares and draws. One pool needs no draw, so a cluster
without pools is placed as if there were no such thing.
"""

from collections.abc import Callable, Iterable

from treedraft.core.rollout import Pool, Weights
from treedraft.core.worker import WorkerRegistration


def shares_of(workers: Iterable[WorkerRegistration], weights: Weights) -> dict[str, float]:
    """Return the share of each pool among workers of one role.

    What somebody has set counts; else the largest that a worker of the pool
    announces, so that a change of settings counts once the first has it.
    """
    shares: dict[str, float] = {}
    for worker in workers:
        share = weights.get(Pool(worker.role.value, worker.pool), worker.weight)
        shares[worker.pool] = max(share, shares.get(worker.pool, 0.0))
    return shares


def draw_order(shares: dict[str, float], draw: Callable[[], float]) -> list[str]:
    """Return the pools that get sessions, the first by share, the next among the rest, and so on.

    Efraimidis and Spirakis 2006: the order of u ** (1 / weight) for uniform u
    is that of weighted draws without replacement.

    Args:
        shares: of each pool; those with 0 are left out.
        draw: returns uniform numbers from 0 to 1.
    """
    positive = {pool: share for pool, share in sorted(shares.items()) if share > 0}
    if len(positive) == 1:
        return list(positive)
    keys = {pool: draw() ** (1.0 / share) for pool, share in positive.items()}
    return sorted(positive, key=lambda pool: (-keys[pool], pool))
