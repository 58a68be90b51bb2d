"""Which cut of a product is quickest: other blocks, parts, warps and stages than planned.

Weights rotate among copies that together are larger than the cache. The plan of
`inference.fused.plans` is timed first, then its rivals; what wins clearly belongs there.
"""

import itertools
from dataclasses import replace
from typing import Any

import torch

from treedraft.inference.fused.decoder import FusedDecoder
from treedraft.inference.fused.plans import ProductPlan, plan_product

SHAPES = {
    "135m": [(960, 576), (576, 576), (576, 1536)],
    "1.5b": [(2048, 1536), (1536, 1536), (1536, 8960)],
    "8b": [(6144, 4096), (4096, 4096), (4096, 14336), (128_256, 4096)],
}
_CACHE_BYTES = 200 << 20


def search(device: torch.device, name: str, *, num_rows: int = 16) -> list[dict[str, Any]]:
    """Return the planned time and the quickest cuts of each product of a model."""
    found = []
    for outputs, inputs in SHAPES[name]:
        planned = plan_product(outputs, inputs, may_split=outputs < 100_000)
        copies = max(2, min(64, _CACHE_BYTES // (2 * outputs * inputs)))
        weights = [
            torch.randn((outputs, inputs), device=device, dtype=torch.bfloat16)
            for _ in range(copies)
        ]
        rows = torch.randn((64, inputs), device=device, dtype=torch.bfloat16)
        timed = {}
        for plan in dict.fromkeys([planned, *_rivals(planned)]):
            try:
                timed[plan] = _microseconds(plan, rows, weights, num_rows)
            except Exception as error:  # too much shared memory, for one
                timed[plan] = float("inf")
                print(f"{plan}: {type(error).__name__}")
        best = sorted(timed, key=lambda plan: timed[plan])[:3]
        floor = 2 * outputs * inputs / 4.0e6
        found.append(
            {
                "outputs": outputs,
                "inputs": inputs,
                "floor_us at 4 TB/s": round(floor, 2),
                "planned_us": round(timed[planned], 2),
                "planned": _cut(planned),
                "best": [(round(timed[plan], 2), _cut(plan)) for plan in best],
            }
        )
    return found


def _cut(plan: ProductPlan) -> str:
    return (
        f"n{plan.block_n} k{plan.block_k} parts{plan.num_splits} "
        f"warps{plan.num_warps} stages{plan.num_stages}"
    )


def _rivals(planned: ProductPlan) -> list[ProductPlan]:
    rivals = []
    steps = -(-planned.inputs // planned.block_k)
    for block_n, num_splits, num_stages in itertools.product(
        (16, 32), sorted({1, 2, 3, 4, 6, 8, planned.num_splits}), (3, 5)
    ):
        if num_splits > steps or (num_splits > 1 and planned.outputs > 100_000):
            continue
        split = -(-steps // num_splits) * planned.block_k
        rivals.append(replace(planned, block_n=block_n, split_inputs=split, num_stages=num_stages))
    best_shape = [replace(planned, num_warps=warps) for warps in (2, 8)]
    return [*rivals, *best_shape]


def _microseconds(
    plan: ProductPlan, rows: torch.Tensor, weights: list[torch.Tensor], num_rows: int
) -> float:
    parts = torch.zeros((plan.num_splits, 64, plan.outputs), device=rows.device)

    def launch() -> None:
        for weight in weights:
            FusedDecoder._product(rows, weight, parts, parts.stride(0), plan, num_rows)

    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    best = float("inf")
    for _ in range(5):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        best = min(best, before.elapsed_time(after))
    return best * 1e3 / len(weights)
