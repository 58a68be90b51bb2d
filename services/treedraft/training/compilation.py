"""torch's compiler where it pays, and the plain code where it does not work.

Losses over thousands of columns are many passes over large matrices, which the
compiler fuses into a few. It needs a C compiler on the machine and may refuse
what it does not know, so whatever is compiled here falls back to itself.
"""

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from treedraft.inference.downloads import Progress
from treedraft.training.student import decoder_layers

_P = ParamSpec("_P")
_R = TypeVar("_R")


def with_fallback(
    fast: Callable[_P, _R], plain: Callable[_P, _R], progress: Progress
) -> Callable[_P, _R]:
    """Return a function that calls `fast` until it fails, and `plain` from then on.

    Memory that ran out is no failure of the code, so it is raised.
    """
    chosen = fast

    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        nonlocal chosen
        if chosen is plain:
            return plain(*args, **kwargs)
        try:
            return chosen(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise anything
            reason = str(error).strip().partition("\n")[0]
            progress(f"going on without compilation: {type(error).__name__}: {reason}")
            chosen = plain
            return plain(*args, **kwargs)

    return call


def compile_for_any_rows(function: Callable[..., _R]) -> Callable[..., _R]:
    """Return a function over tensors of [rows, …] compiled once, not for each number of rows."""
    compiled = torch.compile(function)

    def call(*args: Any) -> _R:
        for tensor in tree_leaves(args):
            if isinstance(tensor, torch.Tensor) and tensor.ndim:
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return compiled(*args)

    return call


def compile_layers_if_possible(
    modules: Sequence[PreTrainedModel], rehearse: Callable[[], None], progress: Progress
) -> None:
    """Let torch compile the layers of models, and undo it if a rehearsal fails."""
    for module in modules:
        for layer in decoder_layers(module):
            layer.compile()
    try:
        rehearse()
    except Exception as error:  # compilers raise anything
        progress(f"layers are not compiled: {type(error).__name__}")
        for module in modules:
            undo_compilation(module)


def undo_compilation(module: PreTrainedModel) -> None:
    """Call the layers of a module plainly again."""
    for layer in decoder_layers(module):
        layer._compiled_call_impl = None
