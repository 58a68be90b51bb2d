"""How a pass is cut into programs: products by their shape, passes by their rows.

What decides the order of sums (the split of inputs, the blocks of keys) is chosen by
the shape of the weights alone, so that the numbers of a row do not depend on the size
of the pass. What the size of a pass decides is how many programs there are.
"""

from bisect import bisect_left
from dataclasses import dataclass

# Passes are padded to the next of these numbers of rows; each has a graph of its own.
# One row more than a power of two is the root of a tree of so many nodes.
ROW_BUCKETS = (
    *(1, 2, 3, 4, 6, 8, 12, 16, 17, 20, 24, 28, 32, 40, 48, 56, 64),
    *(80, 96, 128, 160, 192, 224, 256, 320, 384, 512, 640, 768, 1024),
)
MAX_ROWS = ROW_BUCKETS[-1]
ROW_TILE = 64  # buffers are padded to it
KEY_BLOCK = 128
NUM_PARTS = 16

# An H100 or H200 has so many multiprocessors. A product is cut into two programs for each or
# a little fewer, since the slowest multiprocessor ends it: cut into 3.4 waves, the gated pair
# of an 8B model took 74 us in place of 60 (docs/results/h200-cuts.json).
_MULTIPROCESSORS = 132
_WANTED_PROGRAMS = 240
_WANTED_BALANCE = 0.9
_MANY_OUTPUTS = 1024  # enough for blocks of 64
_LEAST_STEPS = 3  # blocks of inputs that a program goes through at least
# Up to this size a product's weights are fetched before its inputs are there: more would be
# in the way of the product that runs meanwhile (1.45 ms for a pass of 1.5B in place of 1.37).
_EARLY_BYTES = 4 << 20
_MAX_EARLY_LINES = 8
_NUMBERS_IN_LINE = 64


@dataclass(frozen=True, slots=True)
class ProductPlan:
    """How one product is cut.

    `block_n` outputs and `block_k` inputs at a time; `num_splits` parts of
    `split_inputs` inputs each, added up by whoever reads them.
    """

    outputs: int
    inputs: int
    block_n: int
    block_k: int
    split_inputs: int
    num_warps: int = 4
    num_stages: int = 4

    @property
    def num_splits(self) -> int:
        """Parts that the inputs are cut into."""
        return -(-self.inputs // self.split_inputs)

    @property
    def early_lines(self) -> int:
        """Cache lines that a program fetches of each of its rows: a power of two, or none."""
        if 2 * self.outputs * self.inputs > _EARLY_BYTES:
            return 0
        lines = min(_MAX_EARLY_LINES, self.split_inputs // _NUMBERS_IN_LINE)
        return 1 << max(0, lines.bit_length() - 1)

    @property
    def num_column_programs(self) -> int:
        """Programs side by side over the outputs."""
        return -(-self.outputs // self.block_n)

    def grid(self, num_rows: int) -> tuple[int, int, int]:
        """Return programs over rows, outputs and parts."""
        return -(-num_rows // row_tile(num_rows)), self.num_column_programs, self.num_splits

    def cut(self, tile: int) -> dict[str, int]:
        """Return what a kernel is told of the cut, for tiles of so many rows."""
        return {
            "OUTPUTS": self.outputs,
            "INPUTS": self.inputs,
            "BLOCK_M": tile,
            "BLOCK_N": self.block_n,
            "BLOCK_K": self.block_k,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }


def plan_product(outputs: int, inputs: int) -> ProductPlan:
    """Return how to cut a product with `outputs` rows of `inputs` weights into parts."""
    block_n, num_warps = (64, 4) if outputs >= _MANY_OUTPUTS else (16, 2)
    block_k = _block_of_inputs(inputs, most=128 if outputs >= _MANY_OUTPUTS else 64)
    steps, columns = -(-inputs // block_k), -(-outputs // block_n)
    most = max(1, steps // _LEAST_STEPS)
    split_steps = -(-steps // most)
    for num_splits in range(1, most):
        own_steps = -(-steps // num_splits)
        programs = columns * -(-steps // own_steps)
        if programs >= _WANTED_PROGRAMS and _balance(programs) >= _WANTED_BALANCE:
            split_steps = own_steps
            break
    return ProductPlan(outputs, inputs, block_n, block_k, split_steps * block_k, num_warps)


def plan_gated_product(outputs: int, inputs: int) -> ProductPlan:
    """Return how to cut a gated pair of `outputs` rows each; it has no parts."""
    block_k = _block_of_inputs(inputs, most=64)
    is_small = -(-outputs // 16) < 2 * _MULTIPROCESSORS
    num_warps, num_stages = (4, 8) if is_small else (2, 4)
    return ProductPlan(outputs, inputs, 16, block_k, inputs, num_warps, num_stages)


def plan_turned_product(outputs: int, inputs: int) -> ProductPlan:
    """Return how to cut a product of queries, keys and values that turns what it makes."""
    plan = plan_gated_product(outputs // 2, inputs)
    return ProductPlan(
        outputs, inputs, plan.block_n, plan.block_k, inputs, plan.num_warps, plan.num_stages
    )


def plan_head(outputs: int, inputs: int) -> ProductPlan:
    """Return how to cut the head, which has outputs enough for all multiprocessors."""
    block_n = 32 if outputs >= 32 * _MULTIPROCESSORS else 16
    return ProductPlan(outputs, inputs, block_n, _block_of_inputs(inputs, most=128), inputs)


def _block_of_inputs(inputs: int, *, most: int) -> int:
    return next((size for size in (128, 64, 32) if size <= most and inputs % size == 0), 32)


def _balance(programs: int) -> float:
    """Return which share of multiprocessors is at work, on average until the last is done."""
    waves = programs / _MULTIPROCESSORS
    return waves / -(-programs // _MULTIPROCESSORS)


def row_bucket(num_rows: int) -> int:
    """Return the size that a pass is padded to; beyond the largest, whole tiles."""
    assert num_rows > 0
    if num_rows > MAX_ROWS:
        return -(-num_rows // ROW_TILE) * ROW_TILE
    return ROW_BUCKETS[bisect_left(ROW_BUCKETS, num_rows)]


def row_tile(num_rows: int) -> int:
    """Return how many rows a program of a product takes at once."""
    return 16 if num_rows <= 16 else 32 if num_rows <= 32 else ROW_TILE


def padded_rows(num_rows: int) -> int:
    """Return how many rows buffers have, so that no tile reaches beyond them."""
    return -(-num_rows // ROW_TILE) * ROW_TILE
