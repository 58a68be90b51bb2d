"""Runs rows of many sessions through a model in one pass.

A pass is a list of segments, one per session: a prompt chunk, the root and the
drafted nodes of a target, or the new nodes of a drafter. To the model all of
them are rows with a token and a position; what each row sees is the business
of `tree_attention`, for which this module makes the plan once per pass.

Linear layers run over all rows packed together. Attention runs per group of
segments of similar shape.

Invariant: the logits of a row are those that the model's own causal forward
gives for the tokens on the row's path, up to rounding.
"""

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.segment import Segment, checked_slots, concatenate, written_slots
from treedraft.inference.tree_attention import (
    ATTENTION_NAME,
    AttentionGroup,
    AttentionPlan,
    GatheredKeys,
    SlotIndex,
    group_shapes,
)

# Kernels on CUDA read a mask in place only if its rows are aligned.
_MASK_ALIGNMENT = 16


class PassDecoder(Protocol):
    """Runs whole passes in place of a module."""

    @property
    def sizes(self) -> Sequence[int]:
        """Numbers of rows that passes are padded to; none where each is run as it is."""

    def run(self, segments: Sequence[Segment], pool: KVPool) -> torch.Tensor:
        """Return the logits of all output rows, float32; the next pass may write over them."""


class ForwardModel(Protocol):
    """What the runner needs of a loaded model."""

    @property
    def module(self) -> torch.nn.Module:
        """The causal language model, in eval mode, with our attention function."""

    @property
    def num_layers(self) -> int:
        """Attention layers."""

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values in a layer."""

    @property
    def head_dim(self) -> int:
        """Numbers in one key."""

    @property
    def vocab_size(self) -> int:
        """Logits of a row."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and KV."""

    @property
    def native(self) -> PassDecoder | None:
        """The decoder that runs passes in place of the module, if there is one."""


class Runner:
    """Runs passes of one model on one KV pool. Used by one thread."""

    def __init__(self, model: ForwardModel, pool: KVPool) -> None:
        """Run `model` with its KV in `pool`.

        Raises:
            UnsupportedModelError: the module cannot be run by rows.
        """
        if model.native is None:
            _check_module(model.module)
        assert (pool.num_layers, pool.num_kv_heads, pool.head_dim) == (
            model.num_layers,
            model.num_kv_heads,
            model.head_dim,
        )
        self.model = model
        self.pool = pool
        num_heads: int = model.module.config.get_text_config().num_attention_heads  # type: ignore[union-attr, operator]
        self._num_query_groups = num_heads // model.num_kv_heads
        self._scratch = pool.keys.new_empty((2, 0, pool.head_dim))

    @property
    def sizes(self) -> Sequence[int]:
        """Numbers of rows whose first passes take longer than all later ones."""
        return self.model.native.sizes if self.model.native else ()

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Run one pass and return the logits of all output rows.

        Returns:
            float32 [sum of len(output_rows), vocab_size], segments in the given
            order. An inference tensor: clone it before changing it in place, and
            before the next pass if it is to last.

        Raises:
            UnsupportedModelError: a layer asks for attention that is not ours.
        """
        if not segments:
            return torch.empty((0, self.model.vocab_size), device=self.model.device)
        if self.model.native:
            return self.model.native.run(segments, self.pool)
        order = group_shapes(
            [(s.num_rows, s.num_keys) for s in segments],
            is_on_cpu=self.model.device.type == "cpu",
        )
        packed = [segments[index] for group in order for index in group]
        starts = np.cumsum([0, *(s.num_rows for s in packed)])
        positions = concatenate([s.positions for s in packed])
        write_slots = written_slots(packed, self.pool.num_slots)
        plan = AttentionPlan(
            pool=self.pool,
            write_slots=self._index(write_slots),
            groups=self._plan_groups(order, segments, starts),
            max_position=int(positions.max()),
        )
        start_of = dict(zip((i for group in order for i in group), starts, strict=False))
        output_rows = concatenate(
            [start_of[i] + np.asarray(s.output_rows, np.int64) for i, s in enumerate(segments)]
        )
        return self._run_module(
            concatenate([s.token_ids for s in packed]), positions, output_rows, plan
        )

    def _run_module(
        self,
        token_ids: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        output_rows: npt.NDArray[np.int64],
        plan: AttentionPlan,
    ) -> torch.Tensor:
        # The module's own forward scales or caps the logits where it must; its
        # head sees the output rows only.
        outputs = self.model.module(
            input_ids=self._to_device(token_ids).unsqueeze(0),
            position_ids=self._to_device(positions).unsqueeze(0),
            attention_mask=None,
            use_cache=False,
            logits_to_keep=self._to_device(output_rows),
            tree_plan=plan,
        )
        logits: torch.Tensor = outputs.logits[0, :, : self.model.vocab_size]
        return logits.float()

    def _plan_groups(
        self,
        order: Sequence[Sequence[int]],
        segments: Sequence[Segment],
        starts: npt.NDArray[np.int64],
    ) -> tuple[AttentionGroup, ...]:
        ends = np.cumsum([0, *map(len, order)])
        return tuple(
            self._plan_group([segments[i] for i in members], slice(starts[a], starts[b]))
            for members, (a, b) in zip(order, pairwise(ends), strict=True)
        )

    def _plan_group(self, members: Sequence[Segment], rows: slice) -> AttentionGroup:
        """Lay the segments of one group out as a padded rectangle."""
        num_rows = max(s.num_rows for s in members)
        num_keys = max(s.num_keys for s in members)
        is_seen = np.zeros((len(members), num_rows, num_keys), dtype=np.bool_)
        key_slots = np.empty((len(members), num_keys), dtype=np.int64)
        is_real = np.zeros((len(members), num_rows), dtype=np.bool_)
        for i, segment in enumerate(members):
            context = len(segment.context_slots)
            key_slots[i] = segment.write_slots[0]  # padding stays in the session
            key_slots[i, :context] = segment.context_slots
            key_slots[i, context : segment.num_keys] = segment.tree_slots
            is_seen[i, : segment.num_rows, :context] = True
            is_seen[i, : segment.num_rows, context : segment.num_keys] = segment.tree_mask
            is_seen[i, segment.num_rows :, 0] = True  # a row without a key would be NaN
            is_real[i, : segment.num_rows] = True
        assert is_seen.any(axis=2).all(), "a row sees nothing"
        padded = None if is_real.all() else np.maximum(is_real.ravel().cumsum() - 1, 0)
        return AttentionGroup(
            num_segments=len(members),
            rows=rows,
            padded_rows=None if padded is None else self._to_device(padded),
            real_rows=None if padded is None else self._to_device(np.flatnonzero(is_real)),
            keys=self._plan_keys(key_slots),
            mask=None if is_seen.all() else self._additive_mask(is_seen),
        )

    def _plan_keys(self, key_slots: npt.NDArray[np.int64]) -> slice | GatheredKeys:
        # key_slots: [segments, keys]
        slots = self._index(checked_slots([key_slots.ravel()], self.pool.num_slots))
        if isinstance(slots, slice) and len(key_slots) == 1:
            return slots
        num_heads = self.pool.num_kv_heads
        heads = key_slots[:, None, :] * num_heads + np.arange(num_heads)[:, None]
        if self._scratch.shape[1] < heads.size:
            shape = (2, _next_power_of_two(heads.size), self.pool.head_dim)
            self._scratch = self.pool.keys.new_empty(shape)
        return GatheredKeys(self._to_device(heads.ravel()), self._scratch[:, : heads.size])

    def _additive_mask(self, is_seen: npt.NDArray[np.bool_]) -> torch.Tensor:
        # Returns [segments, 1, query groups * rows, keys], equal for all query groups.
        num_segments, num_rows, num_keys = is_seen.shape
        aligned = -(-num_keys // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
        mask = torch.zeros(
            (num_segments, 1, self._num_query_groups, num_rows, aligned),
            dtype=self.model.dtype,
            device=self.model.device,
        )[..., :num_keys]
        hidden = torch.from_numpy(~is_seen).to(self.model.device)
        mask.masked_fill_(hidden[:, None, None], float("-inf"))
        return mask.flatten(2, 3)

    def _index(self, slots: npt.NDArray[np.int64]) -> SlotIndex:
        first, count = int(slots[0]), len(slots)
        if slots[-1] == first + count - 1 and (np.diff(slots) == 1).all():
            return slice(first, first + count)
        return self._to_device(slots)

    def _to_device(self, numbers: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self.model.device)


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _check_module(module: torch.nn.Module) -> None:
    """Raise UnsupportedModelError unless rows can be run through the module."""
    name = type(module).__name__
    if module.config._attn_implementation != ATTENTION_NAME:  # type: ignore[union-attr]
        raise UnsupportedModelError(
            f"{name} was not loaded with attn_implementation={ATTENTION_NAME!r}",
            reason="UNSUPPORTED_ATTENTION",
        )
    if "logits_to_keep" not in inspect.signature(module.forward).parameters:
        raise UnsupportedModelError(f"{name} cannot give the logits of chosen rows")
