"""A language model that is a function of its KV slots, and that tells when they lie.

Each slot holds the token, its position, and a checksum of the whole text up to
it, as it was when the slot was written. A row's logits follow from the tokens that
its visible slots hold. So a page of the wrong text, a node written over, a path
compacted to the wrong place or a mask with a hole change the text, and are found
by name besides.

The text has habits (the last two tokens count most), so that drafters and lookup
are right often and wrong often. A drafter's model is the target's, but for some
contexts.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tests.unit.coordinator.support import describe_toy

from treedraft.core.model_description import ModelDescription
from treedraft.core.sampling import SamplingParameters
from treedraft.inference.sampler import LawRow, coupled_draw
from treedraft.inference.segment import Segment

VOCAB_SIZE = 257
EOS = 256
CONTEXT_LENGTH = 160

_NUM_ROWS = 1024
_HABITS = (np.random.default_rng(5).standard_normal((_NUM_ROWS, VOCAB_SIZE)) * 2.0).astype("f4")
_MOODS = np.random.default_rng(6).standard_normal((_NUM_ROWS, VOCAB_SIZE)).astype("f4")
_ALPHABET = np.full(VOCAB_SIZE, -8.0, dtype=np.float32)
_ALPHABET[64:80] = 0.0
_ALPHABET[EOS] = -5.0


def describe(**changes: object) -> ModelDescription:
    """Return what targets of this model say of it."""
    sizes = {"context_length": CONTEXT_LENGTH, "max_prompt_tokens": CONTEXT_LENGTH}
    return describe_toy(**{**sizes, **changes})


def checksum(token_ids: Sequence[int], start: int = 0) -> int:
    """Return the checksum of a text, or of one that goes on after a checksum."""
    return zlib.crc32(np.asarray(token_ids, dtype="<u4").tobytes(), start)


def logits_of(token_ids: Sequence[int], text: int, *, moodiness: int = 0) -> np.ndarray:
    """Return the logits after a text, whose checksum is `text`.

    A moodiness of n in ten makes another model of it in that share of contexts.
    """
    habit = checksum(token_ids[-2:]) % _NUM_ROWS
    mood = (text + (text % 10 < moodiness)) % _NUM_ROWS
    return _HABITS[habit] + _MOODS[mood] + _ALPHABET


def plain_text(
    prompt: Sequence[int], sampling: SamplingParameters, max_tokens: int, *, ignore_eos: bool
) -> tuple[int, ...]:
    """Return what the target says with nobody's help and no trouble."""
    text = list(prompt)
    while len(text) < len(prompt) + max_tokens:
        logits = torch.from_numpy(logits_of(text, checksum(text)))[None]
        text += coupled_draw(logits, [LawRow(sampling, len(text))])
        if text[-1] == EOS and not ignore_eos:
            break
    return tuple(text[len(prompt) :])


class SlotMemory:
    """Stands in for the KV pool."""

    device = torch.device("cpu")

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.cells: list[tuple[int, int, int]] = [(-1, -1, 0)] * num_slots

    @property
    def num_bytes(self) -> int:
        return self.num_slots

    def copy_slots(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        assert len(sources) == len(set(destinations)) == len(destinations)
        read = [self.cells[slot] for slot in sources]
        for slot, cell in zip(destinations, read, strict=True):
            self.cells[slot] = cell


class ToyRunner:
    """Stands in for the runner of a model."""

    def __init__(
        self,
        memory: SlotMemory,
        *,
        spend: Callable[[int], None],
        on_bug: Callable[[str], None],
        moodiness: int = 0,
    ) -> None:
        """Run on `memory`; `spend` lets the time of a pass over so many rows go by."""
        self._memory = memory
        self._spend = spend
        self._on_bug = on_bug
        self._moodiness = moodiness

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Return the logits of all output rows, as `inference.runner.Runner` does."""
        self._spend(sum(segment.num_rows for segment in segments))
        rows = [row for segment in segments for row in self._run(segment)]
        if not rows:
            return torch.empty((0, VOCAB_SIZE))
        return torch.from_numpy(np.stack(rows))

    def _run(self, segment: Segment) -> list[np.ndarray]:
        cells, outputs, wanted = self._memory.cells, [], set(segment.output_rows)
        context = [cells[slot] for slot in segment.context_slots]
        tree_slots = [int(slot) for slot in segment.tree_slots]
        for row, position in enumerate(segment.positions):
            slot, token_id = int(segment.write_slots[row]), int(segment.token_ids[row])
            others = [
                cells[tree_slots[index]]
                for index in np.flatnonzero(segment.tree_mask[row])
                if tree_slots[index] != slot
            ]
            text = [*self._read(sorted([*context, *others]), position), token_id]
            whole = checksum(text)
            cells[slot] = (position, token_id, whole)
            if row in wanted:
                outputs.append(logits_of(text, whole, moodiness=self._moodiness))
        return outputs

    def _read(self, seen: list[tuple[int, int, int]], position: int) -> list[int]:
        """Return the tokens that a row sees, having checked that they are one text."""
        text = [cell[1] for cell in seen]
        if [cell[0] for cell in seen] != list(range(position)):
            self._on_bug(f"row at {position} sees positions {[cell[0] for cell in seen]}")
        elif seen and seen[-1][2] != checksum(text):
            self._on_bug(f"row at {position} sees slots of another text")
        return text
