"""The native decoder of one model: its weights, and passes over rows.

Everything is float32 but the weights, which may be held in fewer bits, since
reading them is what a pass over few rows costs:

- `float32`: as they are;
- `bfloat16`: rounded; weights that are bfloat16 anyway lose nothing by it;
- `int8`: 32 inputs of an output share a scale, as llama.cpp's Q8_0 has it.

Invariant: the logits of a row are the same to the bit whatever other rows share
the pass, whichever slots they use and however many threads compute.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from treedraft.inference.decoder_shape import shape_of
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.lean import can_streamline
from treedraft.inference.native.rows import Rows, rows_of
from treedraft.inference.native.turn_table import TurnTable, is_steady
from treedraft.inference.segment import Segment

_ATTENTION_NORM, _MLP_NORM, _FINAL_NORM = range(3)
_QKV, _OUT, _GATE_UP, _DOWN, _HEAD = range(5)


class WeightStorage(Enum):
    """How the weights of linear layers are held."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


_STORAGE_NUMBERS = {storage: number for number, storage in enumerate(WeightStorage)}  # as linear.h


class NativeLinear(nn.Module):
    """Where a linear layer was whose weights are in the library; it knows its shape alone."""

    def __init__(self, linear: nn.Linear) -> None:
        """Stand for `linear`, whose weights are no longer needed."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features


class _Shape(ctypes.Structure):
    """A `DecoderShape`, field by field, as the library reads it."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("num_layers", "hidden", "num_heads")),
        *((name, ctypes.c_int32) for name in ("num_kv_heads", "head_dim", "intermediate")),
        ("vocab_size", ctypes.c_int32),
        ("epsilon", ctypes.c_float),
        ("scaling", ctypes.c_float),
    )


class PassOrder(ctypes.Structure):
    """A pass as the library takes it, see `pass.h`; what it points to must be kept."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_rows", "num_outputs", "num_threads")),
        *((name, ctypes.c_void_p) for name in ("embeddings", "token_ids", "positions")),
        *((name, ctypes.c_void_p) for name in ("cos", "sin", "write_slots")),
        *((name, ctypes.c_void_p) for name in ("key_offsets", "key_slots", "output_rows")),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        ("layer_stride", ctypes.c_int64),
        ("logits", ctypes.c_void_p),
        ("logit_stride", ctypes.c_int64),
    )


class NativeDecoder:
    """A Llama-like decoder whose linear layers are in the library. Used by one thread."""

    def __init__(
        self, library: ctypes.CDLL, module: PreTrainedModel, storage: WeightStorage
    ) -> None:
        """Copy the weights of `module`: of the kinds that `lean.can_streamline` knows.

        Args:
            library: of `compiler.native_library`.
            module: on the CPU, float32; its layers not joined or packed.
            storage: how to hold the weights.
        """
        self.storage = storage
        self.vocab_size: int = module.lm_head.out_features
        self._library = library
        self._embeddings: Tensor = module.model.embed_tokens.weight.detach().contiguous()
        self._turns = TurnTable(module.model.rotary_emb)
        library.treedraft_decoder_new.restype = ctypes.c_void_p
        shape = _Shape(**asdict(shape_of(module)))
        self._handle = ctypes.c_void_p(library.treedraft_decoder_new(ctypes.byref(shape)))
        for index, layer in enumerate(module.model.layers):
            self._take_layer(index, layer)
        self._take_norm(0, _FINAL_NORM, module.model.norm)
        self._take_linear(0, _HEAD, module.lm_head)

    def __del__(self) -> None:
        """Free the weights."""
        if handle := getattr(self, "_handle", None):
            self._library.treedraft_decoder_free(handle)

    @property
    def sizes(self) -> Sequence[int]:
        """None: a pass is run as it is, and the first as quickly as the next."""
        return ()

    def run(self, segments: Sequence[Segment], pool: KVPool) -> Tensor:
        """Run one pass over segments, as `forward` does over rows."""
        return self.forward(rows_of(segments, pool.num_slots), pool)

    def forward(self, rows: Rows, pool: KVPool) -> Tensor:
        """Run one pass; keys and values of the rows go into their slots of the pool.

        Returns:
            float32 [output rows, vocab].
        """
        logits = np.empty((len(rows.output_rows), self.vocab_size), dtype=np.float32)
        work = self.order_of(rows, pool, num_positions=int(rows.positions.max()) + 1)
        work.logits = logits.ctypes.data
        self._library.treedraft_decoder_forward(self._handle, ctypes.byref(work))
        return torch.from_numpy(logits)

    def grow(self, order: ctypes.Structure) -> int:
        """Grow trees as `growth.h` has it; return how many rows have children."""
        self._library.treedraft_decoder_grow.restype = ctypes.c_int64
        return int(self._library.treedraft_decoder_grow(self._handle, ctypes.byref(order)))

    def order_of(self, rows: Rows, pool: KVPool, *, num_positions: int) -> PassOrder:
        """Return the pass over `rows` but for where its logits go; both must be kept meanwhile.

        What is run may have positions below `num_positions`.
        """
        assert pool.keys.dtype == pool.values.dtype == torch.float32
        assert rows.token_ids.min() >= 0
        assert rows.token_ids.max() < len(self._embeddings)
        self._turns.cover(num_positions)
        return PassOrder(
            num_rows=len(rows.token_ids),
            num_outputs=len(rows.output_rows),
            num_threads=torch.get_num_threads(),
            embeddings=self._embeddings.data_ptr(),
            token_ids=rows.token_ids.ctypes.data,
            positions=rows.positions.ctypes.data,
            cos=self._turns.cos.data_ptr(),
            sin=self._turns.sin.data_ptr(),
            write_slots=rows.write_slots.ctypes.data,
            key_offsets=rows.key_offsets.ctypes.data,
            key_slots=rows.key_slots.ctypes.data,
            output_rows=rows.output_rows.ctypes.data,
            keys=pool.keys.data_ptr(),
            values=pool.values.data_ptr(),
            layer_stride=pool.keys.stride(0),
            logit_stride=self.vocab_size,
        )

    def read_weights(self) -> int:
        """Read all weights once and do nothing with them: no pass can be faster.

        Returns:
            How many bytes that is.
        """
        self._library.treedraft_decoder_read.restype = ctypes.c_int64
        num_threads = torch.get_num_threads()
        return int(self._library.treedraft_decoder_read(self._handle, num_threads))

    def _take_layer(self, index: int, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._take_norm(index, _ATTENTION_NORM, layer.input_layernorm)
        self._take_norm(index, _MLP_NORM, layer.post_attention_layernorm)
        self._take_linear(index, _QKV, attention.q_proj, attention.k_proj, attention.v_proj)
        self._take_linear(index, _OUT, attention.o_proj)
        self._take_linear(index, _GATE_UP, mlp.gate_proj, mlp.up_proj)
        self._take_linear(index, _DOWN, mlp.down_proj)

    def _take_norm(self, layer: int, which: int, norm: Any) -> None:
        weight = norm.weight.detach().float().contiguous()
        self._library.treedraft_decoder_set_norm(
            self._handle, layer, which, ctypes.c_void_p(weight.data_ptr()), len(weight)
        )

    def _take_linear(self, layer: int, part: int, *linears: nn.Linear) -> None:
        weight = _joined([linear.weight for linear in linears])
        bias = None
        if linears[0].bias is not None:
            bias = _joined([linear.bias for linear in linears])
        outputs, inputs = weight.shape
        self._library.treedraft_decoder_set_linear(
            self._handle,
            layer,
            part,
            ctypes.c_void_p(weight.data_ptr()),
            ctypes.c_void_p(None if bias is None else bias.data_ptr()),
            outputs,
            inputs,
            _STORAGE_NUMBERS[self.storage],
        )


def _joined(parts: list[Tensor]) -> Tensor:
    """Return parts one after another as float32; one that is so already is no copy."""
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.detach().float().contiguous()


def can_go_native(module: PreTrainedModel) -> bool:
    """Return whether passes of such a module can be run by the library."""
    return can_streamline(module) and is_steady(module.model.rotary_emb)


def go_native(
    module: PreTrainedModel, library: ctypes.CDLL, storage: WeightStorage
) -> NativeDecoder:
    """Return the native decoder of a module, which keeps no linear layer of its own.

    Such a module can neither be trained nor saved nor called.
    """
    decoder = NativeDecoder(library, module, storage)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, NativeLinear(child))
    return decoder


def smallest_lossless_storage(module: PreTrainedModel) -> WeightStorage:
    """Return bfloat16 where all weights of linear layers are bfloat16 numbers, else float32."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            weight = child.weight.detach()
            if not torch.equal(weight, weight.to(torch.bfloat16).to(weight.dtype)):
                return WeightStorage.FLOAT32
    return WeightStorage.BFLOAT16
