"""Which cut of a product is quickest: other blocks, parts, warps and stages than planned.

Weights rotate among copies that together are larger than the cache. The plan of
`inference.fused.plans` is timed beside its rivals; what wins clearly belongs there.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from treedraft.inference.fused.kernels.product import gated_product, product
from treedraft.inference.fused.plans import (
    ProductPlan,
    plan_gated_product,
    plan_head,
    plan_product,
)

Planner = Callable[[int, int], ProductPlan]

# Outputs and inputs of products as the layers of models have them, and who plans each.
SHAPES: dict[str, list[tuple[int, int, Planner]]] = {
    "135m": [
        (960, 576, plan_product),
        (576, 576, plan_product),
        (1536, 576, plan_gated_product),
        (576, 1536, plan_product),
        (49_152, 576, plan_head),
    ],
    "1.5b": [
        (2048, 1536, plan_product),
        (1536, 1536, plan_product),
        (8960, 1536, plan_gated_product),
        (1536, 8960, plan_product),
    ],
    "8b": [
        (6144, 4096, plan_product),
        (4096, 4096, plan_product),
        (14_336, 4096, plan_gated_product),
        (4096, 14_336, plan_product),
        (128_256, 4096, plan_head),
    ],
}
ROWS = (1, 17)
_NUM_RIVALS = 24
_CACHE_BYTES = 200 << 20
_SHARED_BYTES = 220_000  # of a multiprocessor
_MAX_ROWS = 64


@dataclass(frozen=True)
class _Subject:
    """A product with everything that it reads and writes."""

    planner: Planner
    inputs: torch.Tensor
    weights: list[torch.Tensor]

    def queue(self, plan: ProductPlan, num_rows: int, outputs: torch.Tensor) -> None:
        """Queue the product with each copy of the weights."""
        for weight in self.weights:
            if self.planner is plan_gated_product:
                gated_product[plan.grid(num_rows)[:2]](
                    self.inputs, weight, outputs, num_rows, **plan.cut(_tile(num_rows))
                )
            else:
                product[plan.grid(num_rows)](
                    self.inputs,
                    weight,
                    outputs,
                    _MAX_ROWS * plan.outputs,
                    num_rows,
                    SPLIT_INPUTS=plan.split_inputs,
                    **plan.cut(_tile(num_rows)),
                )


def search(device: torch.device, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the planned time and the quickest cuts of each product of a model."""
    for outputs, inputs, planner in SHAPES[name]:
        planned = planner(outputs, inputs)
        subject = _subject(outputs, inputs, planner, device)
        timed = {}
        for plan in dict.fromkeys([planned, *_rivals(planned, may_split=planner is plan_product)]):
            try:
                timed[plan] = [_microseconds(subject, plan, count) for count in ROWS]
            except Exception as error:  # too much shared memory, for one
                print(f"{plan}: {type(error).__name__}")
        best = sorted(timed, key=lambda plan: timed[plan][0] + 0.5 * timed[plan][1])[:4]
        told = {
            "floor_us at 4.2 TB/s": round(subject.weights[0].nbytes / 4.2e6, 2),
            "planned": _told(planned, timed) if planned in timed else "does not run",
            "best": [_told(plan, timed) for plan in best],
        }
        yield f"{name}: {outputs} of {inputs}", told


def _subject(outputs: int, inputs: int, planner: Planner, device: torch.device) -> _Subject:
    rows = outputs * (2 if planner is plan_gated_product else 1)
    copies = max(2, min(48, _CACHE_BYTES // (2 * rows * inputs)))

    def numbers(count: int) -> torch.Tensor:
        return torch.randn((count, inputs), device=device, dtype=torch.bfloat16)

    return _Subject(planner, numbers(_MAX_ROWS), [numbers(rows) for _ in range(copies)])


def _told(plan: ProductPlan, timed: dict[ProductPlan, list[float]]) -> str:
    cut = f"n{plan.block_n} k{plan.block_k} parts{plan.num_splits}"
    times = " ".join(f"{one:.2f}" for one in timed[plan])
    return f"{cut} warps{plan.num_warps} stages{plan.num_stages}: {times} us"


def _rivals(planned: ProductPlan, *, may_split: bool) -> list[ProductPlan]:
    """Return some of the cuts that fit, the same at every call."""
    rivals = []
    for block_n, block_k, warps, stages in itertools.product(
        (16, 32, 64), (64, 128), (1, 2, 4), (3, 4, 6)
    ):
        steps = -(-planned.inputs // block_k)
        fits = 2 * (2 * block_n + 16) * block_k * stages <= _SHARED_BYTES
        for parts in (1, 2, 3, 4, 6, 8) if may_split else (1,):
            split = -(-steps // parts) * block_k
            plan = ProductPlan(
                planned.outputs, planned.inputs, block_n, block_k, split, warps, stages
            )
            if fits and parts <= steps and plan.num_splits == parts:
                rivals.append(plan)
    return random.Random(0).sample(rivals, min(_NUM_RIVALS, len(rivals)))


def _tile(num_rows: int) -> int:
    return 16 if num_rows <= 16 else 32


def _microseconds(subject: _Subject, plan: ProductPlan, num_rows: int) -> float:
    outputs = torch.zeros((plan.num_splits, _MAX_ROWS, plan.outputs), device=subject.inputs.device)
    if subject.planner is plan_gated_product:
        outputs = outputs[0].to(subject.inputs.dtype)
    subject.queue(plan, num_rows, outputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        subject.queue(plan, num_rows, outputs)
    best = float("inf")
    for _ in range(5):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        best = min(best, before.elapsed_time(after))
    return best * 1e3 / len(subject.weights)
