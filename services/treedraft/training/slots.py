"""The state of all slots on the device, and the step that moves every one a token on.

A slot is a small machine. It is given the tokens of a prompt, which it takes
one a step like any other (they are *forced*), and then draws its own until an
id that ends texts or its limit. Nothing of that needs the host: a step is a
fixed row of kernels over fixed memory, on CUDA one graph.

A draw is argmax(logits / T + Gumbel noise), which has the law softmax(logits / T)
(Gumbel 1954; Maddison et al. 2014); at T = 0 it is the argmax alone.

The first tokens of all texts may be the same, the system prompt say. Their
keys and values are computed once, at the head of every slot, and stay there:
a slot starts behind them.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from treedraft.training.slot_attention import SLOT_ATTENTION, SlotCache

_NUM_WARM_UPS = 3
_SMALLEST_NOISE = torch.finfo(torch.float32).tiny


class Slots:
    """Texts under way on one device, all moved on together by `step`.

    Over slots: `text` [num_slots, max_length] (int32), `lengths` (tokens of `text`
    that count), `is_active` (false once a text is done) and `tickets` (who has the
    slot) are for reading; `assign` begins new texts.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        *,
        num_slots: int,
        max_length: int,
        stop_ids: Iterable[int],
        cache: SlotCache,
        seed: int,
    ) -> None:
        """Allocate the state; all slots are idle."""
        device = module.device
        head = module.get_output_embeddings()  # type: ignore[no-untyped-call]
        vocab_size = int(head.weight.shape[0])

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.text = zeros(num_slots, max_length, dtype=torch.int32)
        self.lengths = zeros(num_slots)
        self.tickets = torch.full((num_slots,), -1, dtype=torch.int64, device=device)
        self.is_active = zeros(num_slots, dtype=torch.bool)
        self._module = module
        self._cache = cache
        self._positions = zeros(num_slots)
        self._forced_lengths = zeros(num_slots)
        self._limits = torch.full_like(self._forced_lengths, max_length)
        self._sharpness = torch.ones((num_slots, 1), device=device)
        self._noise_scale = torch.ones((num_slots, 1), device=device)
        self._noise = torch.ones((num_slots, vocab_size), device=device)
        self._is_stop_id = zeros(vocab_size, dtype=torch.bool)
        self._is_stop_id[[i for i in sorted(stop_ids) if i < vocab_size]] = True
        self._random = torch.Generator(device).manual_seed(seed)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._num_shared = 0

    @property
    def num_shared(self) -> int:
        """Length of the prefix that is at the head of every slot."""
        return self._num_shared

    @torch.no_grad()
    def share_prefix(self, token_ids: Sequence[int]) -> None:
        """Compute the keys and values of a prefix in every slot; all must be idle."""
        self._num_shared = 0
        if token_ids:
            prefix = torch.tensor(token_ids, dtype=torch.int32, device=self.text.device)
            self.text[:, : len(token_ids)] = prefix
            self._forced_lengths.fill_(len(token_ids))
            self._limits.fill_(self.text.shape[1])
            self._positions.zero_()
            self.is_active.fill_(True)
            for _ in token_ids:
                self.step()
            self.is_active.fill_(False)
        self._num_shared = len(token_ids)

    @torch.no_grad()
    def assign(
        self,
        slots: Sequence[int],
        tickets: Sequence[int],
        prompts: Sequence[Sequence[int]],
        temperatures: Sequence[float],
        limits: Sequence[int],
    ) -> None:
        """Begin new texts.

        Args:
            slots: which ones to use.
            tickets: a number for each text, to be read back with it.
            prompts: their first tokens, at least one; the shared prefix comes first.
            temperatures: 0 draws the best token.
            limits: tokens at which a text is cut off, more than its prompt has and
                at most max_length.
        """
        device, max_length = self.text.device, self.text.shape[1]
        rows = torch.zeros((len(slots), max_length), dtype=torch.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt, dtype=torch.int32)
        forced = [len(prompt) for prompt in prompts]
        starts = [min(self._num_shared, length - 1) for length in forced]
        numbers = torch.tensor([slots, tickets, forced, starts, limits], dtype=torch.int64)
        heat = torch.tensor(
            [[1 / t if t > 0 else 1.0, 1.0 if t > 0 else 0.0] for t in temperatures]
        )
        index, *columns = _upload(numbers, device)
        names = (self.tickets, self._forced_lengths, self._positions, self._limits)
        for state, column in zip(names, columns, strict=True):
            state.index_copy_(0, index, column)
        self.text.index_copy_(0, index, _upload(rows, device))
        heat = _upload(heat, device)
        self._sharpness.index_copy_(0, index, heat[:, :1])
        self._noise_scale.index_copy_(0, index, heat[:, 1:])
        self.lengths.index_copy_(0, index, columns[1])
        self.is_active.index_fill_(0, index, True)

    @torch.no_grad()
    def step(self) -> None:
        """Move every active slot one token on; on CUDA this only queues the work."""
        if self._graph is not None:
            self._graph.replay()
        else:
            self._step()

    @torch.no_grad()
    def capture(self) -> None:
        """Turn the step into a CUDA graph; all slots must be idle."""
        with torch.cuda.device(self.text.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_NUM_WARM_UPS):
                    self._step()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self._random)
            with torch.cuda.graph(graph):
                self._step()
            self._graph = graph

    def _step(self) -> None:
        logits = self._forward()
        drawn = self._draw(logits)
        new_positions = self._positions + 1
        is_forced = new_positions < self._forced_lengths
        held = self.text.gather(1, new_positions[:, None])[:, 0]
        tokens = torch.where(is_forced, held, drawn.to(torch.int32))
        written = torch.where(self.is_active, tokens, held)
        self.text.scatter_(1, new_positions[:, None], written[:, None])
        is_stopped = self._is_stop_id[tokens.to(torch.int64)] & ~is_forced
        has_ended = is_stopped | (new_positions + 1 >= self._limits)
        goes_on = self.is_active & ~has_ended
        self.lengths.copy_(torch.where(self.is_active, new_positions + 1, self.lengths))
        # An idle slot stays one short of the end, where a step harms nobody.
        self._positions.copy_(torch.where(goes_on, new_positions, self._positions))
        self.is_active.copy_(goes_on)

    def _forward(self) -> torch.Tensor:
        """Run the model over the current token of every slot: [num_slots, vocab_size]."""
        self._cache.move_to(self._positions)
        current = self.text.gather(1, self._positions[:, None]).to(torch.int64)
        outputs = self._module(
            input_ids=current,
            position_ids=self._positions[:, None],
            attention_mask=None,
            use_cache=False,
            slot_cache=self._cache,
        )
        logits: torch.Tensor = outputs.logits[:, -1]
        return logits

    def _draw(self, logits: torch.Tensor) -> torch.Tensor:
        """Draw a token for every slot, [num_slots] int64."""
        # -log of an exponential variate is Gumbel noise.
        noise = self._noise.exponential_(generator=self._random)
        noise.clamp_min_(_SMALLEST_NOISE).log_()
        scores = logits * self._sharpness  # float32, since the factor is
        scores.addcmul_(noise, self._noise_scale, value=-1)
        return scores.argmax(dim=1)


def _upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    # From pinned memory, since a copy from any other waits for the queue.
    if device.type != "cuda":
        return values
    return values.pin_memory().to(device, non_blocking=True)


@contextmanager
def attending_in_slots(module: PreTrainedModel) -> Iterator[None]:
    """Give the model our attention function for as long as slots are stepped."""
    attention = module.config._attn_implementation
    module.set_attn_implementation(SLOT_ATTENTION)
    try:
        yield
    finally:
        module.set_attn_implementation(attention)
