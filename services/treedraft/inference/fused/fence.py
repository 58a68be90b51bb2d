"""Keeps the host from memory that a device may still read.

What is queued may be at work when the step that queued it has ended by an error, before it
waited: the next step must not write over what is being read.
"""

import torch


class Fence:
    """A mark behind what was queued, to be waited for once; nothing where there is no CUDA."""

    def __init__(self, device: torch.device) -> None:
        """Mark nothing yet."""
        is_on_cuda = device.type == "cuda"
        self._event = torch.cuda.Event() if is_on_cuda else None  # type: ignore[no-untyped-call]
        self._is_up = False

    def mark(self) -> None:
        """Put the mark behind all that was queued until now."""
        if self._event is not None:
            self._is_up = True
            self._event.record()

    def wait(self) -> None:
        """Wait until the device has come to the mark; other threads may run meanwhile."""
        if self._event is not None and self._is_up:
            self._event.synchronize()
            self._is_up = False
