"""Fused passes of one model: what is launched, in which order, on which memory.

A layer is nine kernels: the parts of the product before added up and normed, the
joined product of queries, keys and values, their turn and their way into the pool,
attention in parts and the parts joined, the product out of it, again the norm, the
gated pair of the MLP, and the product out of that.

Invariant: the logits of a row are the same to the bit whatever other rows share the
pass, whichever slots they use and however large the pass is padded.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import triton
from torch import Tensor
from transformers import PreTrainedModel

from treedraft.inference.fused.graphs import PassGraphs
from treedraft.inference.fused.kernels.attention import attend, combine
from treedraft.inference.fused.kernels.norm import add_norm, embed_norm, final_norm
from treedraft.inference.fused.kernels.product import gated_product, product
from treedraft.inference.fused.layout import Column, PassLayout, lay_out
from treedraft.inference.fused.plans import (
    KEY_BLOCK,
    NUM_PARTS,
    ROW_BUCKETS,
    ProductPlan,
    row_tile,
)
from treedraft.inference.fused.support import can_come_early
from treedraft.inference.fused.turns import (
    can_turn_in_product,
    queue_turn,
    queue_turned_product,
)
from treedraft.inference.fused.ways import Early, PassWays
from treedraft.inference.fused.weights import DecoderWeights, LayerWeights, take_weights
from treedraft.inference.fused.workspace import Capacity, PassView, Workspace
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.segment import Segment

_LOG2_E = math.log2(math.e)
_SMALLEST_DOT = 16
# Kernels of a large layer have every multiprocessor full, and one that comes up beside them takes
# room and bandwidth: 4.74 ms in place of 4.35 for 8B (436 MB a layer), but 0.66 in place of
# 0.79 for 135M (7 MB) and about the same for 1.5B (94 MB; docs/results/h200-five-kernels.json).
_EARLY_LAYER_BYTES = 200 << 20


class FusedDecoder:
    """A Llama-like decoder whose passes are kernels of ours. Used by one thread."""

    def __init__(self, module: PreTrainedModel, *, uses_graphs: bool = True) -> None:
        """Take the weights of `module`, of a kind that `support.can_fuse` knows.

        Args:
            module: on its device; it keeps no linear layer of its own.
            uses_graphs: whether passes are replayed where there is CUDA.
        """
        self.weights = take_weights(module)
        self.vocab_size = self.weights.shape.vocab_size
        shape = self.weights.shape
        self._hidden_block = triton.next_power_of_2(shape.hidden)
        self._padded_group = max(_SMALLEST_DOT, triton.next_power_of_2(shape.group))
        device = self.weights.head.device
        self._graphs = PassGraphs() if uses_graphs and device.type == "cuda" else None
        self._can_come_early = can_come_early(device)
        self.ways = PassWays(
            early=Early.ALWAYS if _is_small(self.weights) else Early.NEVER,
            norm_warps=4 if self._hidden_block <= 2048 else 8,
        )
        self._workspace: Workspace | None = None

    @property
    def ways(self) -> PassWays:
        """How passes are queued; what was recorded goes if that changes."""
        return self._ways

    @ways.setter
    def ways(self, ways: PassWays) -> None:
        if self._graphs is not None:
            self._graphs.clear()
        if not self._can_come_early:  # the interpreter knows no such way to launch
            ways = replace(ways, early=Early.NEVER)
        if not can_turn_in_product(self.weights):
            ways = replace(ways, turns_in_product=False)
        self._ways = ways

    @property
    def sizes(self) -> Sequence[int]:
        """Numbers of rows that passes are padded to, each of which has a graph of its own."""
        return ROW_BUCKETS if self._graphs else ()

    @torch.inference_mode()
    def run(self, segments: Sequence[Segment], pool: KVPool) -> Tensor:
        """Queue one pass; keys and values of the rows go into their slots of the pool.

        Returns:
            float32 [output rows, vocab], in memory that the next pass writes to again.
        """
        layout, space = self.prepare(segments, pool)
        key = (layout.row_bucket, layout.output_bucket)
        self.replay(key, lambda: self.launch(space, space.view(*key)))
        return space.logits[: layout.num_outputs]

    def prepare(self, segments: Sequence[Segment], pool: KVPool) -> tuple[PassLayout, Workspace]:
        """Queue what a pass reads; return how it lies there and where."""
        before = self._workspace
        layout = lay_out(segments, pool.num_slots, before.room() if before else None)
        space = self._fitting(layout, pool)
        space.upload(layout.numbers)
        return layout, space

    def replay(self, key: tuple[int, ...], launch: Callable[[], None]) -> None:
        """Queue kernels, as a graph where there are graphs; see `PassGraphs.run`."""
        if self._graphs is None:
            launch()
        else:
            self._graphs.run(key, launch)

    def _fitting(self, layout: PassLayout, pool: KVPool) -> Workspace:
        space = self._workspace
        capacity = (space.capacity if space else Capacity()).covering(layout)
        if space is None or space.pool is not pool or space.capacity != capacity:
            if self._graphs is not None:
                self._graphs.clear()
            self._workspace = space = None  # before the next one is there
            self._workspace = space = Workspace(self.weights, pool, capacity)
        return space

    def launch(self, space: Workspace, view: PassView) -> None:
        """Queue all kernels of a pass, and nothing else."""
        weights, shape = self.weights, self.weights.shape
        columns, num_rows, num_outputs = view.columns, view.num_rows, view.num_outputs
        embed_norm[(num_rows,)](
            columns[Column.TOKEN],
            weights.embeddings,
            space.states,
            weights.layers[0].attention_norm,
            space.normed,
            shape.epsilon,
            HIDDEN=shape.hidden,
            BLOCK=self._hidden_block,
            num_warps=self._ways.norm_warps,
            **self._early(),
        )
        for index, layer in enumerate(weights.layers):
            if index:
                self._norm(space, num_rows, weights.plans.down, layer.attention_norm)
            self._attention(space, view, index)
            self._norm(space, num_rows, weights.plans.out, layer.mlp_norm)
            self._mlp(space, num_rows, layer)
        final_norm[(num_outputs,)](
            view.output_rows,
            space.states,
            space.parts,
            space.capacity.rows * shape.hidden,
            weights.norm,
            space.normed,
            shape.epsilon,
            NUM_SPLITS=weights.plans.down.num_splits,
            HIDDEN=shape.hidden,
            BLOCK=self._hidden_block,
            num_warps=self._ways.norm_warps,
            **self._early(),
        )
        self._product(space.normed, weights.head, space.logits, 0, weights.plans.head, num_outputs)

    def _attention(self, space: Workspace, view: PassView, index: int) -> None:
        plans, shape, layer = self.weights.plans, self.weights.shape, self.weights.layers[index]
        num_rows, rows = view.num_rows, space.capacity.rows
        if self._ways.turns_in_product:
            queue_turned_product(self.weights, space, view, index, self._early(plans.turned))
        else:
            stride = rows * shape.qkv
            self._product(space.normed, layer.qkv, space.parts, stride, plans.qkv, num_rows)
            queue_turn(self.weights, space, view, index, self._early())
        self._attend(space, view, index)
        self._product(
            space.attended, layer.out, space.parts, rows * shape.hidden, plans.out, num_rows
        )

    def _attend(self, space: Workspace, view: PassView, index: int) -> None:
        shape = self.weights.shape
        sizes = {
            "NUM_KV_HEADS": shape.num_kv_heads,
            "GROUP": shape.group,
            "HEAD_DIM": shape.head_dim,
            "BLOCK": KEY_BLOCK,
            "NUM_PARTS": NUM_PARTS,
        }
        parts = space.sums, space.peaks, space.masses
        attend[(view.num_rows, shape.num_kv_heads, NUM_PARTS)](
            space.queries,
            space.pool.key_layers[index],
            space.pool.value_layers[index],
            view.key_slots,
            *view.columns[Column.LINE_START :],
            *parts,
            shape.scaling * _LOG2_E,
            PADDED_GROUP=self._padded_group,
            **sizes,
            num_warps=4,
            num_stages=2,
            **self._early(),
        )
        lengths = view.columns[Column.LINE_LENGTH], view.columns[Column.PATH_LENGTH]
        combine[(view.num_rows, shape.num_heads)](
            *parts, *lengths, space.attended, **sizes, num_warps=2, **self._early()
        )

    def _mlp(self, space: Workspace, num_rows: int, layer: LayerWeights) -> None:
        plans, tile = self.weights.plans, row_tile(num_rows)
        gated_product[plans.gate_up.grid(num_rows)[:2]](
            space.normed,
            layer.gate_up,
            space.activated,
            num_rows,
            **plans.gate_up.cut(tile),
            **self._early(plans.gate_up),
        )
        stride = space.capacity.rows * self.weights.shape.hidden
        self._product(space.activated, layer.down, space.parts, stride, plans.down, num_rows)

    def _norm(self, space: Workspace, num_rows: int, before: ProductPlan, weight: Tensor) -> None:
        shape = self.weights.shape
        add_norm[(num_rows,)](
            space.states,
            space.parts,
            space.capacity.rows * shape.hidden,
            weight,
            space.normed,
            shape.epsilon,
            NUM_SPLITS=before.num_splits,
            HIDDEN=shape.hidden,
            BLOCK=self._hidden_block,
            num_warps=self._ways.norm_warps,
            **self._early(),
        )

    def _early(self, plan: ProductPlan | None = None) -> dict[str, int | bool]:
        """Return how a kernel is launched, a product with its plan, if any is to come up early."""
        if self._ways.early is Early.NEVER:
            return {}
        early: dict[str, int | bool] = {"IS_EARLY": True, "launch_pdl": True}
        if plan is None:
            return early
        if self._ways.early is Early.BETWEEN:  # it lets the next come up, and comes after the last
            return {"IS_EARLY": True}
        return early | {"EARLY_LINES": plan.early_lines}

    def _product(
        self,
        inputs: Tensor,
        weight: Tensor,
        parts: Tensor,
        part_stride: int,
        plan: ProductPlan,
        num_rows: int,
    ) -> None:
        product[plan.grid(num_rows)](
            inputs,
            weight,
            parts,
            part_stride,
            num_rows,
            SPLIT_INPUTS=plan.split_inputs,
            **plan.cut(row_tile(num_rows)),
            **self._early(plan),
        )


def _is_small(weights: DecoderWeights) -> bool:
    layer = weights.layers[0]
    size = sum(tensor.nbytes for tensor in (layer.qkv, layer.out, layer.gate_up, layer.down))
    return size <= _EARLY_LAYER_BYTES
