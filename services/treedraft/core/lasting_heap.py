"""Garbage collection for processes that load much at first and little after.

A full collection looks at every object there is. Torch and its like bring half a million
that stay, which takes a tenth of a second and more, in the middle of a step; and a step of
many sessions makes thousands of short-lived ones, so collections come often.
"""

import gc

# Of the youngest objects; a step of 64 sessions leaves some thousands behind.
_YOUNG_OBJECTS = 20_000


def keep_heap() -> None:
    """Take all that is there now for lasting, and look for garbage less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
