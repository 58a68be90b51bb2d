"""CUDA graphs of passes, one for each size.

Launching the kernels of a pass one by one takes longer than they do. The first pass of a
size is launched, which also compiles what is not compiled yet; when the size comes again
it is recorded, and replayed from then on. So an odd size costs no recording. What differs
between passes of a size is in memory, not in the graph.
"""

from collections.abc import Callable

import torch

# How often a size has to come until it is recorded.
PASSES_UNTIL_RECORDED = 2
# Sizes are few in a steady state; what an odd load leaves behind is dropped.
_MAX_GRAPHS = 128


class PassGraphs:
    """Records launches under keys, and replays them."""

    def __init__(self) -> None:
        """Know no graph yet."""
        self._graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph | None] = {}
        self._stream: torch.cuda.Stream | None = None

    def run(self, key: tuple[int, ...], launch: Callable[[], None]) -> None:
        """Do what `launch` does, by replay if it was done under this key before.

        Args:
            key: names everything that shapes the launches.
            launch: queues kernels on the current stream and does nothing else.
        """
        is_known = key in self._graphs
        graph = self._graphs.pop(key, None)
        if not is_known:
            launch()
        else:
            graph = graph or self._record(launch)
            graph.replay()
        self._graphs[key] = graph  # last, so the first is the one that was not used longest
        if len(self._graphs) > _MAX_GRAPHS:
            del self._graphs[next(iter(self._graphs))]

    def clear(self) -> None:
        """Forget all graphs: the memory that they work on goes."""
        if self._graphs:
            torch.cuda.synchronize()
        self._graphs.clear()

    def _record(self, launch: Callable[[], None]) -> torch.cuda.CUDAGraph:
        # Not by `torch.cuda.graph`, which collects garbage and empties caches each time.
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # Other threads of the process may go on using the device meanwhile.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                launch()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return graph
