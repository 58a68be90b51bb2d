"""Products of few rows with a weight matrix, each weight read once.

A program holds some outputs and all rows of a tile, and goes through its share of
the inputs. The weights are the left operand, so the width of the tile of rows
changes how many columns an instruction has, never in which order inputs are summed:
a row has the same result in a tile of 16 as in one of 64, whoever else is in it. Rows
that only fill a tile up are neither read nor written.

Where outputs are few, the inputs are shared out among several programs as well, and
whoever reads the product adds up the parts, first to last. How many parts there are
follows from the shape of the weights alone.
"""

import triton
import triton.language as tl

from treedraft.inference.fused.kernels.early import await_last, fetch

# A number of rows is no address: one that 16 divides needs no kernel of its own, which would have
# to be compiled for each tile of each product.
_NUM_ROWS = ("num_rows",)


@triton.jit(do_not_specialize_on_alignment=_NUM_ROWS)
def product(
    inputs,  # [rows, INPUTS]
    weight,  # [OUTPUTS, INPUTS]
    parts,  # float32 [NUM_SPLITS, rows, OUTPUTS]
    part_stride,
    num_rows,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    SPLIT_INPUTS: tl.constexpr,  # inputs of one part, a multiple of BLOCK_K
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY_LINES: tl.constexpr = 0,  # of each row of weights, fetched before inputs are there
    IS_EARLY: tl.constexpr = False,
):
    """Write the parts of `inputs @ weight.T`."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    is_real = columns < OUTPUTS
    is_row = rows < num_rows
    sums = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    own = tl.minimum(columns, OUTPUTS - 1).to(tl.int64)
    fetch(weight + own * INPUTS + split * SPLIT_INPUTS, EARLY_LINES)
    await_last(IS_EARLY)
    weight_rows = weight + columns[:, None].to(tl.int64) * INPUTS
    for offset in range(0, SPLIT_INPUTS, BLOCK_K):
        at = split * SPLIT_INPUTS + offset + tl.arange(0, BLOCK_K)
        in_range = at < INPUTS
        held = tl.load(
            weight_rows + at[None, :],
            mask=is_real[:, None] & in_range[None, :],
            other=0.0,
            eviction_policy="evict_first",
        )
        taken = tl.load(
            inputs + rows[None, :] * INPUTS + at[:, None],
            mask=in_range[:, None] & is_row[None, :],
            other=0.0,
        )
        sums = tl.dot(held, taken, sums, input_precision="ieee")
    places = split.to(tl.int64) * part_stride + rows[None, :].to(tl.int64) * OUTPUTS
    tl.store(parts + places + columns[:, None], sums, mask=is_real[:, None] & is_row[None, :])


@triton.jit(do_not_specialize_on_alignment=_NUM_ROWS)
def gated_product(
    inputs,  # [rows, INPUTS]
    weight,  # [2 * OUTPUTS, INPUTS]: gates, then what they gate
    outputs,  # [rows, OUTPUTS]
    num_rows,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EARLY_LINES: tl.constexpr = 0,  # of each row of weights, fetched before inputs are there
    IS_EARLY: tl.constexpr = False,
):
    """Write `silu(inputs @ gates.T) * (inputs @ rest.T)`."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_real = columns < OUTPUTS
    is_row = rows < num_rows
    gates = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    gated = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    own = tl.minimum(columns, OUTPUTS - 1).to(tl.int64)
    fetch(weight + own * INPUTS, EARLY_LINES)
    fetch(weight + (OUTPUTS + own) * INPUTS, EARLY_LINES)
    await_last(IS_EARLY)
    gate_rows = weight + columns[:, None].to(tl.int64) * INPUTS
    for offset in range(0, INPUTS, BLOCK_K):
        at = offset + tl.arange(0, BLOCK_K)
        in_range = at < INPUTS
        mask = is_real[:, None] & in_range[None, :]
        taken = tl.load(
            inputs + rows[None, :] * INPUTS + at[:, None],
            mask=in_range[:, None] & is_row[None, :],
            other=0.0,
        )
        held = tl.load(gate_rows + at[None, :], mask=mask, other=0.0)
        gates = tl.dot(held, taken, gates, input_precision="ieee")
        held = tl.load(gate_rows + OUTPUTS * INPUTS + at[None, :], mask=mask, other=0.0)
        gated = tl.dot(held, taken, gated, input_precision="ieee")
    results = gates / (1.0 + tl.exp(-gates)) * gated
    places = rows[None, :].to(tl.int64) * OUTPUTS + columns[:, None]
    mask = is_real[:, None] & is_row[None, :]
    tl.store(outputs + places, results.to(outputs.dtype.element_ty), mask=mask)
