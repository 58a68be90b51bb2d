"""Writes many texts at once, as fast as the device can.

A fixed number of slots is stepped together, each at its own place in its own
text; see `slots`. There is no prefill: prompts are short, and a prompt token
costs what any token costs. A slot that is done is given the next job.

The device never waits for the host: the host queues a window of steps and a
copy of their outcome, then the next window, and reads the first outcome while
the second window runs. A slot that ends thus idles for one to two windows,
which is the price, a few per cent of long texts.

The texts that come out depend on the seed and on the order of jobs, and on
nothing that a user sees of a job: which slot is free when decides which noise
it gets. So a seed gives a law, and the same texts only for the same run.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from treedraft.core.errors import InvalidRequestError
from treedraft.inference.downloads import Progress
from treedraft.inference.weights import be_silent
from treedraft.training.slot_attention import (
    DecodeAttention,
    SlotCache,
    masked_attention,
)
from treedraft.training.slots import Slots, attending_in_slots
from treedraft.training.target import TrainingTarget

_LENGTH_STEP = 64  # cache lengths are multiples of it, as kernels like them
_MAX_KERNEL_ERROR = 0.06  # two roundings to bfloat16 of the largest of normal values


@dataclass(frozen=True, slots=True)
class Job:
    """A text to be continued.

    `number` is the caller's, `temperature` 0 takes the best tokens; at most
    `max_new_tokens` are added.
    """

    number: int
    prompt_ids: Sequence[int]
    temperature: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class FinishedText:
    """A job's prompt and continuation, end to end.

    `is_complete` says whether an id that ends texts came last; otherwise the
    text was cut off.
    """

    job: Job
    token_ids: npt.NDArray[np.int32]
    is_complete: bool

    @property
    def new_ids(self) -> npt.NDArray[np.int32]:
        """The continuation alone, with the id that ended it."""
        return self.token_ids[len(self.job.prompt_ids) :]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The state of the slots on its way to the host; complete once `event` is."""

    text: torch.Tensor
    lengths: torch.Tensor
    is_active: torch.Tensor
    tickets: torch.Tensor
    event: torch.cuda.Event | None


class Generator:
    """Continues texts with a target, `num_slots` at a time."""

    def __init__(
        self,
        target: TrainingTarget,
        *,
        num_slots: int,
        max_length: int,
        prefix_ids: Sequence[int] = (),
        seed: int = 0,
        window: int = 8,
        uses_graph: bool = True,
        progress: Progress = be_silent,
    ) -> None:
        """Allocate the slots.

        Args:
            target: whose text it is.
            num_slots: texts at once.
            max_length: most tokens of a text, prompt included.
            prefix_ids: what every prompt begins with.
            seed: of the draws.
            window: steps between two looks of the host.
            uses_graph: whether to capture the step on a CUDA device.
            progress: told in plain words what takes long.

        Raises:
            InvalidRequestError: the lengths do not fit the model.
        """
        if not len(prefix_ids) + 1 < max_length <= target.context_length:
            raise InvalidRequestError(
                f"texts of {max_length} tokens do not fit between the common beginning of "
                f"{len(prefix_ids)} and the context of {target.context_length}",
                field="max_length",
            )
        self.num_slots = num_slots
        self.max_length = max_length
        self._target = target
        self._prefix = tuple(prefix_ids)
        self._window = window
        self._is_on_cuda = target.device.type == "cuda"
        cache = _make_cache(target, num_slots, max_length)
        if self._is_on_cuda:
            cache.attention = _best_attention(cache, target, progress)
        self._slots = Slots(
            target.module,
            num_slots=num_slots,
            max_length=max_length,
            stop_ids=target.eos_token_ids,
            cache=cache,
            seed=seed,
        )
        self._jobs: list[tuple[int, Job] | None] = [None] * num_slots
        self._num_assigned = 0
        with attending_in_slots(target.module):
            if self._is_on_cuda and uses_graph:
                progress(_description(cache))
                self._slots.capture()
            self._slots.share_prefix(self._prefix)

    def run(self, jobs: Iterable[Job]) -> Iterator[FinishedText]:
        """Do all jobs, in about their order; jobs are drawn from the iterable as slots free up.

        Raises:
            InvalidRequestError: a job's prompt is too long or lacks the prefix.
        """
        supply = iter(jobs)
        lag = 1 if self._is_on_cuda else 0
        waiting: list[_Snapshot] = []
        with attending_in_slots(self._target.module):
            self._assign(range(self.num_slots), supply)
            while any(self._jobs):
                for _ in range(self._window):
                    self._slots.step()
                waiting.append(self._look())
                if len(waiting) > lag:
                    yield from self._collect(waiting.pop(0), supply)

    def _assign(self, free: Iterable[int], supply: Iterator[Job]) -> None:
        taken: list[tuple[int, int, Job]] = []
        for slot, job in zip(free, supply, strict=False):
            self._check(job)
            self._jobs[slot] = (self._num_assigned, job)
            taken.append((slot, self._num_assigned, job))
            self._num_assigned += 1
        if taken:
            jobs = [job for _, _, job in taken]
            limits = [len(job.prompt_ids) + job.max_new_tokens for job in jobs]
            self._slots.assign(
                [slot for slot, _, _ in taken],
                [ticket for _, ticket, _ in taken],
                [job.prompt_ids for job in jobs],
                [job.temperature for job in jobs],
                [min(limit, self.max_length) for limit in limits],
            )

    def _check(self, job: Job) -> None:
        has_prefix = tuple(job.prompt_ids[: len(self._prefix)]) == self._prefix
        has_room = 0 < len(job.prompt_ids) < self.max_length and job.max_new_tokens > 0
        if not (has_prefix and has_room):
            raise InvalidRequestError(
                f"a prompt of {len(job.prompt_ids)} tokens, {job.max_new_tokens} more to come, "
                f"does not fit into {self.max_length} behind the common beginning",
                field="prompt_ids",
            )

    def _look(self) -> _Snapshot:
        """Queue a copy of the outcome so far."""
        slots = self._slots
        state = (slots.text, slots.lengths, slots.is_active, slots.tickets)
        if not self._is_on_cuda:
            return _Snapshot(*state, None)
        text, lengths, is_active, tickets = (
            torch.empty(one.shape, dtype=one.dtype, pin_memory=True).copy_(one, non_blocking=True)
            for one in state
        )
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._target.device))
        return _Snapshot(text, lengths, is_active, tickets, event)

    def _collect(self, snapshot: _Snapshot, supply: Iterator[Job]) -> Iterator[FinishedText]:
        """Yield the texts that a snapshot shows as done, after giving their slots away."""
        if snapshot.event is not None:
            snapshot.event.synchronize()
        tickets, is_active = snapshot.tickets.tolist(), snapshot.is_active.tolist()
        done: list[int] = []
        texts: list[FinishedText] = []
        for slot, held in enumerate(self._jobs):
            # An older snapshot may show the slot's text before this one.
            if held is None or is_active[slot] or tickets[slot] != held[0]:
                continue
            done.append(slot)
            tokens = snapshot.text[slot, : int(snapshot.lengths[slot])].numpy().copy()
            is_complete = int(tokens[-1]) in self._target.eos_token_ids
            texts.append(FinishedText(held[1], tokens, is_complete))
            self._jobs[slot] = None
        self._assign(done, supply)
        yield from texts


def _description(cache: SlotCache) -> str:
    num_slots, _, max_length, _ = cache.keys[0].shape
    size = 2 * len(cache.keys) * cache.keys[0].nbytes / 1e9
    return (
        f"capturing a step of {num_slots} texts of up to {max_length} tokens: {size:.1f} GB of "
        f"keys and values, {getattr(cache.attention, '__name__', '')}"
    )


def kv_bytes_per_token(target: TrainingTarget) -> int:
    """Return the memory that the keys and values of one token take, in bytes."""
    shape = _kv_shape(target)
    return (
        2
        * shape["num_layers"]
        * shape["num_kv_heads"]
        * shape["head_dim"]
        * (target.dtype.itemsize)
    )


def _make_cache(target: TrainingTarget, num_slots: int, max_length: int) -> SlotCache:
    return SlotCache(
        **_kv_shape(target),
        num_slots=num_slots,
        max_length=-(-max_length // _LENGTH_STEP) * _LENGTH_STEP,
        dtype=target.dtype,
        device=target.device,
    )


def _kv_shape(target: TrainingTarget) -> dict[str, int]:
    config = target.module.config.get_text_config(decoder=True)
    num_heads = int(config.num_attention_heads)
    return {
        "num_layers": int(config.num_hidden_layers),
        "num_kv_heads": int(getattr(config, "num_key_value_heads", None) or num_heads),
        "head_dim": int(getattr(config, "head_dim", None) or config.hidden_size // num_heads),
    }


def _best_attention(
    cache: SlotCache, target: TrainingTarget, progress: Progress
) -> DecodeAttention:
    """Return the kernel if it works here and says what plain attention says."""
    try:
        from treedraft.training.decode_kernel import decode_attention, is_supported

        num_slots, num_kv_heads, max_length, head_dim = cache.keys[0].shape
        if not is_supported(head_dim, target.dtype):
            return masked_attention
        num_heads = int(target.module.config.get_text_config(decoder=True).num_attention_heads)
        query = torch.randn(
            (num_slots, num_kv_heads, num_heads // num_kv_heads, head_dim),
            dtype=target.dtype,
            device=target.device,
        )
        keys = torch.randn_like(cache.keys[0])
        values = torch.randn_like(keys)
        cache.move_to(torch.arange(num_slots, device=target.device) % max_length)
        scaling = head_dim**-0.5
        ours = decode_attention(query, keys, values, cache, scaling).float()
        theirs = masked_attention(query, keys, values, cache, scaling).float()
        error = float((ours - theirs).abs().max())
    except Exception as failure:  # Triton missing, or unable to compile for this device
        progress(f"plain attention: the Triton kernel does not work here ({failure})")
        return masked_attention
    if not error <= _MAX_KERNEL_ERROR:
        progress(f"plain attention: the Triton kernel is off by {error:.3f}")
        return masked_attention
    return decode_attention
