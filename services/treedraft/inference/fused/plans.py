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

# Enough programs to keep all multiprocessors reading; an H100 has 132.
_WANTED_PROGRAMS = 264
_LEAST_STEPS = 2  # blocks of inputs that a program goes through at least
# Kernels over fewer rows come up one after the other: with so few programs in each, many come
# up at once, and a pass of one row took 0.91 ms in place of 0.81 on an H200, one of 17 rows
# 0.71 in place of 0.86 (docs/results/h200-passes-135m-early.json).
EARLY_ROWS = 16
# Of each row of weights, in lines of 64 numbers, that a program fetches before its inputs
# are there: with 32 rows a program and two programs a multiprocessor, 8 MB of 50 in the L2.
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
        """Cache lines that a program fetches of each of its rows: a power of two, none too many."""
        lines = min(_MAX_EARLY_LINES, self.split_inputs // _NUMBERS_IN_LINE)
        return 1 << max(0, lines.bit_length() - 1)

    @property
    def num_column_programs(self) -> int:
        """Programs side by side over the outputs."""
        return -(-self.outputs // self.block_n)


def plan_product(outputs: int, inputs: int, *, may_split: bool = True) -> ProductPlan:
    """Return how to cut a product with `outputs` rows of `inputs` weights.

    Args:
        outputs: of the layer; of a gated pair, those of one of the two.
        inputs: of the layer.
        may_split: whether whoever reads the product can add up parts.
    """
    block_n = 32 if outputs >= 32 * _WANTED_PROGRAMS // 2 else 16
    block_k = next((size for size in (128, 64, 32) if inputs % size == 0), 32)
    steps = -(-inputs // block_k)
    wanted = -(-_WANTED_PROGRAMS // -(-outputs // block_n))
    num_splits = max(1, min(wanted, steps // _LEAST_STEPS)) if may_split else 1
    split_steps = -(-steps // num_splits)
    return ProductPlan(outputs, inputs, block_n, block_k, split_steps * block_k)


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
