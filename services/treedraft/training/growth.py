"""How a drafter gets more layers and more columns, and yet begins as what it was.

A new layer is one of the target's, from between those that its neighbours came
from, with the two matrices that write into the residual stream at zero: at
first it passes on what it gets, and its first gradients are those of these two.

New columns cannot begin as the target's own rows. The hidden states of a drafter
are not the target's, and against rows that were trained on them untrained ones win
far too often. So the map that leads from the target's rows to the trained ones,
by least squares over the ids that both have, is applied to the new ids' rows.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from treedraft.core.errors import UnsupportedModelError

# Of the mean square of a feature; keeps a map over few ids from exploding.
_RIDGE = 1e-4
_WRITES_TO_THE_STREAM = ("self_attn.o_proj", "mlp.down_proj")


def spread_into(layers: Sequence[int], depth: int, num_layers: int) -> tuple[int, ...]:
    """Return layers of a target, old and new ascending: each new one halves the widest gap.

    Of gaps as wide, the last. What lies behind the last layer is a gap too.

    Args:
        layers: that a drafter came from, ascending.
        depth: that it is to have, as many or more.
        num_layers: of the target, no fewer than `depth`.
    """
    grown = list(layers)
    while len(grown) < depth:
        gaps = [after - before for before, after in pairwise([-1, *grown, num_layers])]
        # Nothing goes before the first layer unless there is room nowhere else.
        place = max(range(len(gaps)), key=lambda at: (at > 0 and gaps[at] > 1, gaps[at], at))
        grown.insert(place, ([-1, *grown][place] + [*grown, num_layers][place]) // 2)
    return tuple(grown)


@torch.no_grad()
def pass_on(layer: nn.Module) -> None:
    """Make a layer return what it gets, for now.

    Raises:
        UnsupportedModelError: reason UNSUPPORTED_LAYER; it is built in another way.
    """
    for name in _WRITES_TO_THE_STREAM:
        try:
            projection = layer.get_submodule(name)
        except AttributeError as error:
            raise UnsupportedModelError(
                f"{type(layer).__name__} has no {name}, so no such layer can be added",
                reason="UNSUPPORTED_LAYER",
            ) from error
        for parameter in projection.parameters():
            parameter.zero_()


def rows_for_new_ids(target_rows: Tensor, trained: Tensor, new_rows: Tensor) -> Tensor:
    """Return rows of a trained head for ids that it has none for, float32.

    Args:
        target_rows: the target's, for the ids of the trained head, [old, hidden].
        trained: the head's own rows for them, [old, hidden].
        new_rows: the target's, for the ids that are new, [new, hidden].
    """
    known, wanted = target_rows.double(), trained.double()
    gram = known.t() @ known
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    linear = torch.linalg.solve(gram + ridge.to(gram.device), known.t() @ wanted)
    rows: Tensor = new_rows.double() @ linear
    return rows.float()
