"""How the passes of a model are run: the quickest way that its kind and the machine allow.

- native: one call into the library compiled for this CPU, float32, Llama-like models;
- fused: our own kernels under CUDA graphs, bfloat16 or float16, for the same models;
- lean: our own forward of torch operators, for the same models elsewhere;
- own: transformers' forward of the module, for all others.

Linear layers on a CPU are packed for oneDNN in the latter two.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from treedraft.core.errors import InvalidRequestError
from treedraft.inference.fused.support import can_fuse, is_available, triton_version
from treedraft.inference.lean import can_streamline, streamline
from treedraft.inference.native.compiler import native_library
from treedraft.inference.native.decoder import (
    NativeDecoder,
    WeightStorage,
    can_go_native,
    go_native,
    smallest_lossless_storage,
)
from treedraft.inference.prepacked import can_prepack, prepack_linears

if TYPE_CHECKING:
    from treedraft.inference.fused.decoder import FusedDecoder

# Another number for every change that changes how fused passes round.
_FUSED_KERNELS = "fused-1"


@dataclass(frozen=True, slots=True)
class ForwardPath:
    """Which way passes go.

    Attributes:
        kernels: what decides how numbers are rounded, for the fingerprint.
        is_lean: whether the module gets our own forward.
        is_packed: whether its linear layers are packed for oneDNN.
        library: of the native decoder, or None.
        storage: how that holds weights.
        is_fused: whether the fused decoder takes the module.
    """

    kernels: tuple[str, ...]
    is_lean: bool = False
    is_packed: bool = False
    library: ctypes.CDLL | None = None
    storage: WeightStorage = WeightStorage.FLOAT32
    is_fused: bool = False

    def take(self, module: PreTrainedModel) -> NativeDecoder | FusedDecoder | None:
        """Make a module ready to go this way; return the decoder in its place, if it has one."""
        if self.library or self.is_packed:
            _let_go_of_files(module)
        if self.library:
            return go_native(module, self.library, self.storage)
        if self.is_fused:
            from treedraft.inference.fused.decoder import FusedDecoder  # needs Triton

            return FusedDecoder(module)
        if self.is_lean:
            streamline(module)
        if self.is_packed:
            prepack_linears(module)
        return None


def _let_go_of_files(module: PreTrainedModel) -> None:
    """Copy what is not going to be packed, embedding and norms, out of the files of a module.

    A file stays in memory as a whole as long as one tensor in it is used.
    """
    for child in module.modules():
        if not isinstance(child, nn.Linear):
            for tensor in (*child.parameters(recurse=False), *child.buffers(recurse=False)):
                tensor.data = tensor.data.clone()


def choose_path(
    module: PreTrainedModel,
    device: torch.device,
    dtype: torch.dtype,
    *,
    weights: str = "auto",
    is_drafter: bool = False,
) -> ForwardPath:
    """Return the quickest path of a module.

    Args:
        module: as transformers loaded it.
        device: where it runs.
        dtype: what it computes in.
        weights: how the native decoder is to hold weights: `auto` is the smallest
            storage that loses nothing; any other asks for the native decoder.
        is_drafter: whether it only ever drafts, so that `auto` may lose something.

    Raises:
        InvalidRequestError: no such storage; reason WEIGHTS_UNSUPPORTED if there is
            no native decoder for this module here.
    """
    is_lean, is_packed = can_streamline(module), can_prepack(device, dtype)
    if device.type == "cpu" and dtype == torch.float32 and can_go_native(module):
        library = native_library()
        if library:
            storage = _choose_storage(weights, module, is_drafter=is_drafter)
            return ForwardPath(("native", storage.value), library=library, storage=storage)
    if weights != "auto":
        raise _unsupported_weights(weights)
    if is_available(device, dtype) and can_fuse(module):
        return ForwardPath((_FUSED_KERNELS, triton_version()), is_fused=True)
    kernels = ("packed" if is_packed else "plain", "lean" if is_lean else "own")
    return ForwardPath(kernels, is_lean=is_lean, is_packed=is_packed)


def _choose_storage(weights: str, module: PreTrainedModel, *, is_drafter: bool) -> WeightStorage:
    if weights == "auto":
        return WeightStorage.INT8 if is_drafter else smallest_lossless_storage(module)
    try:
        return WeightStorage(weights)
    except ValueError as error:
        known = ", ".join(storage.value for storage in WeightStorage)
        raise InvalidRequestError(
            f"weights must be auto or one of {known}", field="weights"
        ) from error


def _unsupported_weights(weights: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"weights cannot be held as {weights!r} here: that takes the native decoder, which runs "
        "Llama-like models in float32 on a CPU and needs a C++ compiler",
        field="weights",
        reason="WEIGHTS_UNSUPPORTED",
    )
