"""Queues what makes queries, keys and values of normed rows: see `ways.PassWays`."""

import triton
from torch import Tensor

from treedraft.inference.decoder_shape import DecoderShape
from treedraft.inference.fused.kernels.turn import turn_and_store
from treedraft.inference.fused.kernels.turned import turned_product
from treedraft.inference.fused.layout import Column
from treedraft.inference.fused.plans import ProductPlan, row_tile
from treedraft.inference.fused.weights import DecoderWeights
from treedraft.inference.fused.workspace import PassView, Workspace

_Early = dict[str, int | bool]


def can_turn_in_product(weights: DecoderWeights) -> bool:
    """Return whether halves of heads can be cut into blocks that a product takes."""
    return weights.shape.head_dim // 2 % weights.plans.turned.block_n == 0


def queue_turn(
    weights: DecoderWeights, space: Workspace, view: PassView, index: int, early: _Early
) -> None:
    """Queue what follows the parts of a product of queries, keys and values."""
    shape, layer = weights.shape, weights.layers[index]
    turn_and_store[(view.num_rows, shape.num_heads + 2 * shape.num_kv_heads)](
        space.parts,
        space.capacity.rows * shape.qkv,
        *_turning(weights, space, view, index),
        NUM_SPLITS=weights.plans.qkv.num_splits,
        **_sizes(shape, layer.bias),
        num_warps=1,
        **early,
    )


def queue_turned_product(
    weights: DecoderWeights, space: Workspace, view: PassView, index: int, early: _Early
) -> None:
    """Queue the product that turns what it makes; nothing comes before or after it."""
    shape, layer = weights.shape, weights.layers[index]
    plan = weights.plans.turned
    cut = plan.cut(row_tile(view.num_rows))
    del cut["OUTPUTS"]
    turned_product[_grid(plan, view.num_rows)](
        space.normed,
        layer.qkv,
        *_turning(weights, space, view, index),
        view.num_rows,
        **_sizes(shape, layer.bias),
        **cut,
        **early,
    )


def _grid(plan: ProductPlan, num_rows: int) -> tuple[int, int]:
    # A program has as many outputs of one half of a head as of the other.
    tile = row_tile(num_rows)
    return triton.cdiv(num_rows, tile), plan.outputs // (2 * plan.block_n)


def _turning(
    weights: DecoderWeights, space: Workspace, view: PassView, index: int
) -> tuple[Tensor, ...]:
    return (
        weights.layers[index].bias,
        weights.cosines,
        weights.sines,
        view.columns[Column.POSITION],
        view.columns[Column.WRITE_SLOT],
        space.queries,
        space.pool.key_layers[index],
        space.pool.value_layers[index],
    )


def _sizes(shape: DecoderShape, bias: Tensor) -> dict[str, int | bool]:
    return {
        "NUM_HEADS": shape.num_heads,
        "NUM_KV_HEADS": shape.num_kv_heads,
        "HEAD_DIM": shape.head_dim,
        "HAS_BIAS": bias.numel() > 0,
    }
