"""Whose prompt is computed next, and whose can no longer be in time.

First come, first served is the worst order under overload: everybody's first
token is late by a little. Where first tokens are due at an instant, the order
here keeps as many as can be kept: by due date, and while that does not work out,
the longest prompt stands back (Moore and Hodgson's rule, which is optimal for
one machine: J. M. Moore, Management Science 15, 1968). One that stands back is
computed when the others leave time, and is refused once it cannot be in time
even at once. Prompts without a due date are served as they came.
"""

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple


class WaitingPrompt(NamedTuple):
    """A prompt whose KV is not complete.

    Attributes:
        seconds: what is left of it would take at once.
        due: when its first token is due; infinite if nobody said so.
        is_owed: somebody reads its text already: it goes first and is never refused.
    """

    seconds: float
    due: float = math.inf
    is_owed: bool = False


class PromptOrder(NamedTuple):
    """Indices of prompts: those to compute, the next one first, and those to refuse."""

    line: tuple[int, ...]
    hopeless: tuple[int, ...] = ()


def is_too_late(now: float, seconds: float, due: float) -> bool:
    """Return whether a prompt that takes so long cannot be in time even at once."""
    return now + seconds > due


def order_prompts(now: float, prompts: Sequence[WaitingPrompt]) -> PromptOrder:
    """Return the order in which most first tokens are in time; equals keep theirs."""
    owed, hopeful, hopeless = list[int](), list[int](), list[int]()
    start = now
    for index, (seconds, due, is_owed) in enumerate(prompts):
        if is_owed:
            owed.append(index)
            start += seconds
        elif is_too_late(now, seconds, due):
            hopeless.append(index)
        else:
            hopeful.append(index)
    hopeful.sort(key=lambda index: prompts[index].due)
    kept, standing_back = _most_in_time(start, prompts, hopeful)
    return PromptOrder((*owed, *kept, *standing_back), tuple(hopeless))


def _most_in_time(
    start: float, prompts: Sequence[WaitingPrompt], by_due: list[int]
) -> tuple[list[int], list[int]]:
    """Return those that can be in time together, by due date, and the others, shortest first."""
    end, longest, out = start, list[tuple[float, int]](), set[int]()
    for index in by_due:
        seconds, due, _ = prompts[index]
        end += seconds
        heapq.heappush(longest, (-seconds, index))
        if end > due:
            seconds, late = heapq.heappop(longest)
            end += seconds
            out.add(late)
    if not out:
        return by_due, []
    others = sorted(out, key=lambda index: (prompts[index].seconds, index))
    return [index for index in by_due if index not in out], others
