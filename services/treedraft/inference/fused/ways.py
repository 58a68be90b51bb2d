"""Ways to queue the same pass, between which a device's own figures decide.

None changes what a row is but for the order of its sums, and that order is the same for
all sizes of passes: so rows stay equal to the bit within one way, whatever shares a pass.
`scripts.gpu.ways` measures them against each other.
"""

from dataclasses import dataclass
from enum import StrEnum


class Early(StrEnum):
    """Which kernels come up while the one before is at work, see `kernels.early`.

    `BETWEEN` are all but products: a product that waits takes room from the one at work,
    what lies between two products takes next to none.
    """

    NEVER = "never"
    BETWEEN = "between"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class PassWays:
    """How passes are queued.

    `turns_in_product` turns queries and keys in the product that makes them, and puts keys
    and values into the pool there, in place of parts that a kernel of its own adds up.
    `norm_warps` are those of the one program that norms a row.
    """

    early: Early = Early.NEVER
    turns_in_product: bool = False
    norm_warps: int = 4
