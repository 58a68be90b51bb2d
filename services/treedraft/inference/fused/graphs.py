"""CUDA graphs of passes, one for each size.

Launching the kernels of a pass one by one takes longer than they do. So the first
pass of a size is launched, which also compiles what is not compiled yet, and then
recorded; from the second on it is replayed. What differs between passes of a size is
in memory, not in the graph.
"""

from collections.abc import Callable

import torch

# Sizes are few in a steady state; what an odd load leaves behind is dropped.
_MAX_GRAPHS = 96


class PassGraphs:
    """Records launches under keys, and replays them."""

    def __init__(self) -> None:
        """Know no graph yet."""
        self._graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}

    def run(self, key: tuple[int, ...], launch: Callable[[], None]) -> None:
        """Do what `launch` does, by replay if it was done under this key before.

        Args:
            key: names everything that shapes the launches.
            launch: queues kernels on the current stream and does nothing else.
        """
        graph = self._graphs.pop(key, None)
        if graph is None:
            launch()
            graph = _record(launch)
        else:
            graph.replay()
        self._graphs[key] = graph  # last, so the first is the one that was not used longest
        if len(self._graphs) > _MAX_GRAPHS:
            del self._graphs[next(iter(self._graphs))]

    def clear(self) -> None:
        """Forget all graphs: the memory that they work on goes."""
        if self._graphs:
            torch.cuda.synchronize()
        self._graphs.clear()


def _record(launch: Callable[[], None]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    # Other threads of the process may go on using the device meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        launch()
    return graph
