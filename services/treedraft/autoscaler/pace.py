"""How quickly a pool follows its need: tolerance, windows, cooldowns, steps.

A replica takes minutes to start and a session's worth of work to drain, so a
need counts only when it lasts. More is ordered once the least need of the last
`up_seconds` asks for it; less is kept once the greatest need of the last
`down_seconds` allows it (the stabilisation windows of Kubernetes' own
autoscaler), in steps, with pauses.
"""

import math
from dataclasses import dataclass, replace

from treedraft.autoscaler.settings import PaceSettings

# Against needs that are an integer but for rounding.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class PaceMemory:
    """The needs of the last minutes as (time, need), and the last changes."""

    needs: tuple[tuple[float, float], ...] = ()
    since: float | None = None
    level: float | None = None
    last_up: float = -math.inf
    last_down: float = -math.inf


@dataclass(frozen=True, slots=True)
class Step:
    """The replicas to have next; `held` says in words why they are not what is needed."""

    replicas: int
    held: str
    memory: PaceMemory


def follow(
    pace: PaceSettings, memory: PaceMemory, *, now: float, current: int, need: float
) -> Step:
    """Return the next size of a pool of `current` replicas that needs `need`."""
    elapsed = now - memory.needs[-1][0] if memory.needs else 0.0
    need = smoothed(memory.level, need, elapsed, pace.smoothing_seconds)
    memory = replace(_remember(pace, memory, now, need), level=need)
    since = now if memory.since is None else memory.since
    wanted = _with_tolerance(pace, current, need)
    if wanted > current:
        return _up(pace, memory, now, current, is_known=now - since >= pace.up_seconds)
    if wanted < current:
        return _down(pace, memory, now, current, is_known=now - since >= pace.down_seconds)
    return Step(current, "", memory)


def _remember(pace: PaceSettings, memory: PaceMemory, now: float, need: float) -> PaceMemory:
    # One sample older than the window stays: it was the need when the window began.
    kept = list(memory.needs)
    horizon = now - max(pace.up_seconds, pace.down_seconds)
    while len(kept) > 1 and kept[1][0] <= horizon:
        kept.pop(0)
    if len(kept) > 1 and kept[-1][1] == kept[-2][1] == need:
        kept.pop()  # a level, known by its two ends
    since = now if memory.since is None else memory.since
    return replace(memory, needs=(*kept, (now, need)), since=since)


def smoothed(mean: float | None, value: float, elapsed: float, over_seconds: float) -> float:
    """Return a mean after one value more; what is older counts less."""
    if mean is None or not over_seconds:
        return value
    return mean + (value - mean) * -math.expm1(-max(0.0, elapsed) / over_seconds)


def _window(memory: PaceMemory, now: float, seconds: float) -> list[float]:
    inside = [need for time, need in memory.needs if time >= now - seconds]
    before = [need for time, need in memory.needs if time < now - seconds]
    return before[-1:] + inside


def _with_tolerance(pace: PaceSettings, current: int, need: float) -> int:
    if current and abs(need / current - 1.0) <= pace.tolerance:
        return current
    return math.ceil(need - _EPSILON)


def _up(
    pace: PaceSettings, memory: PaceMemory, now: float, current: int, *, is_known: bool
) -> Step:
    lasting = _with_tolerance(pace, current, min(_window(memory, now, pace.up_seconds)))
    if not is_known or lasting <= current:
        return Step(current, f"not for {pace.up_seconds:.0f} s yet", memory)
    if now - memory.last_up < pace.up_cooldown_seconds:
        return Step(current, "replicas were added a moment ago", memory)
    limit = current + max(pace.max_up_replicas, math.floor(current * pace.max_up_share))
    held = f"at most {limit - current} more at once" if lasting > limit else ""
    return Step(min(lasting, limit), held, replace(memory, last_up=now))


def _down(
    pace: PaceSettings, memory: PaceMemory, now: float, current: int, *, is_known: bool
) -> Step:
    lasting = _with_tolerance(pace, current, max(_window(memory, now, pace.down_seconds)))
    if not is_known or lasting >= current:
        return Step(current, f"more was needed within {pace.down_seconds:.0f} s", memory)
    if now - max(memory.last_up, memory.last_down) < pace.down_cooldown_seconds:
        return Step(current, "the size changed a moment ago", memory)
    limit = current - max(1, math.floor(current * pace.max_down_share))
    held = f"at most {current - limit} fewer at once" if lasting < limit else ""
    return Step(max(lasting, limit), held, replace(memory, last_down=now))
