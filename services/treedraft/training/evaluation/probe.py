"""What a draft model would guess at every place of a text, on the path and beside it.

The target's text is known, so the model reads it in one pass, and that says what
it would draft at each place of the path that the target takes. Trees also hold
guesses that the target does not follow; those are expanded when somebody asks,
in batches over many texts, and remembered: the branch that leaves the text at one
place is the same in the trees of all roots before it.

The children come from the drafter's own sampler, noise included.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.draft_sampler import draft_children
from treedraft.inference.law import LawRow, processed_logits
from treedraft.inference.models import LoadedModel
from treedraft.inference.segment import Segment
from treedraft.training.evaluation.passes import make_runner, prompt_segment
from treedraft.training.evaluation.texts import TargetText

Child = tuple[int, float]
"""A token, and what the logarithm of its path's survival changes by."""

_ROWS_OF_READING = 1024
# Tokens of drafted branches per token of text that KV is held for.
_BRANCH_ROOM = 40
_MAX_KV_BYTES = 4 << 30


@dataclass(slots=True, eq=False)
class Branch:
    """A guess beside the path of a text.

    Attributes:
        text: the text.
        anchor: response tokens before the place where the branch leaves the text.
        parent: the guess above it, None right beside the path.
        token_id: the guess.
        depth: guesses from the path down to this one.
        slot: of its KV, -1 until it is expanded.
        children: None until it is expanded.
        branches: guesses below it, by token.
    """

    text: "DraftedText"
    anchor: int
    parent: "Branch | None"
    token_id: int
    depth: int
    slot: int = -1
    children: list[Child] | None = None
    branches: dict[int, "Branch"] = field(default_factory=dict)

    def below(self, token_id: int) -> "Branch":
        """Return the guess of a token after this one."""
        if token_id not in self.branches:
            self.branches[token_id] = Branch(self.text, self.anchor, self, token_id, self.depth + 1)
        return self.branches[token_id]

    @property
    def path(self) -> list["Branch"]:
        """Return the guesses from beside the text down to this one."""
        path: list[Branch] = []
        branch: Branch | None = self
        while branch is not None:
            path.append(branch)
            branch = branch.parent
        return path[::-1]


@dataclass(slots=True, eq=False)
class DraftedText:
    """A text of the target, and what the draft model guesses along it.

    Attributes:
        text: what the target wrote.
        sampling: how.
        slots: KV of the text, by position.
        children: the guesses for each response token, best first, [response].
        log_probs: of each response token under the model's law, float64
            [response]; -inf for tokens that its head lacks.
        branches: guesses beside the path, by place and token.
    """

    text: TargetText
    sampling: SamplingParameters
    slots: list[int]
    children: list[list[Child]]
    log_probs: npt.NDArray[np.float64]
    branches: dict[tuple[int, int], Branch] = field(default_factory=dict)

    def response_token(self, index: int) -> int:
        """Return a token that the target wrote."""
        return self.text.token_ids[self.text.prompt_length + index]

    def beside(self, index: int, token_id: int) -> Branch:
        """Return the guess of another token than the one the target wrote there."""
        key = (index, token_id)
        if key not in self.branches:
            self.branches[key] = Branch(self, index, None, token_id, 1)
        return self.branches[key]


class DraftProbe:
    """Runs a draft model over texts that are known."""

    def __init__(
        self, model: LoadedModel, texts: Sequence[TargetText], *, num_children: int, vocab_size: int
    ) -> None:
        """Prepare to read some texts.

        Args:
            model: a drafter, or any model of the target's tokenizer.
            texts: what `read` will be given; KV is held for them and their branches.
            num_children: guesses at each place.
            vocab_size: ids that the target has; no others are guessed.
        """
        num_tokens = sum(len(text.token_ids) for text in texts)
        num_guesses = sum(text.num_response_tokens for text in texts) * _BRANCH_ROOM
        self._runner, self._slots = make_runner(model, num_tokens + num_guesses)
        self._num_children = num_children
        self.eos_token_ids = model.eos_token_ids
        known = np.array(
            range(model.vocab_size) if model.draft_token_ids is None else model.draft_token_ids
        )
        self._column_ids = known[known < vocab_size]
        self._is_whole = model.draft_token_ids is None

    def read(self, texts: Sequence[TargetText]) -> list[DraftedText]:
        """Run the model over whole texts."""
        drafted = []
        for batch in _batches(texts):
            slots = [self._slots.allocate(len(text.token_ids)) for text in batch]
            logits = self._runner.forward(
                [
                    prompt_segment(text.token_ids, own, first_output=text.prompt_length - 1)
                    for text, own in zip(batch, slots, strict=True)
                ]
            ).cpu()
            # The row of a text's last token guesses what nobody wrote.
            counts = [text.num_response_tokens + 1 for text in batch]
            for text, own, rows in zip(batch, slots, torch.split(logits, counts), strict=True):
                drafted.append(self._read_one(text, own, rows[:-1]))
        return drafted

    def _read_one(
        self, text: TargetText, slots: list[int], draft_logits: torch.Tensor
    ) -> DraftedText:
        sampling = SamplingParameters(temperature=text.temperature, seed=text.seed)
        laws = [
            LawRow(sampling, position=position)
            for position in range(text.prompt_length, len(text.token_ids))
        ]
        return DraftedText(
            text=text,
            sampling=sampling,
            slots=slots,
            children=self._children(draft_logits, laws),
            log_probs=self._log_probs(draft_logits, laws, text.token_ids[text.prompt_length :]),
        )

    def _children(self, logits: torch.Tensor, laws: Sequence[LawRow]) -> list[list[Child]]:
        return draft_children(
            logits[:, : len(self._column_ids)],
            laws,
            self._num_children,
            column_ids=None if self._is_whole else self._column_ids,
        )

    def _log_probs(
        self, logits: torch.Tensor, laws: Sequence[LawRow], token_ids: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        processed = processed_logits(logits[:, : len(self._column_ids)], laws)
        log_laws = torch.log_softmax(processed, dim=-1)
        wanted = np.array(token_ids)
        columns = np.searchsorted(self._column_ids, wanted)
        columns = np.minimum(columns, len(self._column_ids) - 1)
        chosen = log_laws.gather(1, torch.from_numpy(columns)[:, None])[:, 0].double().numpy()
        result: npt.NDArray[np.float64] = np.where(
            self._column_ids[columns] == wanted, chosen, -np.inf
        )
        return result

    def expand(self, branches: Sequence[Branch]) -> None:
        """Find the children of guesses, in one pass; everything above them is expanded."""
        by_text: dict[DraftedText, list[Branch]] = {}
        for branch in branches:
            by_text.setdefault(branch.text, []).append(branch)
            (branch.slot,) = self._slots.allocate(1)
        logits = self._runner.forward(
            [_branch_segment(text, members) for text, members in by_text.items()]
        ).cpu()
        ordered = [branch for members in by_text.values() for branch in members]
        laws = [LawRow(branch.text.sampling, position=_position(branch) + 1) for branch in ordered]
        for branch, children in zip(ordered, self._children(logits, laws), strict=True):
            branch.children = children


def groups_of(model: LoadedModel, texts: Sequence[TargetText]) -> Iterator[list[TargetText]]:
    """Yield groups of texts whose KV, branches included, takes no more than a few GiB."""
    token_bytes = 2 * model.num_layers * model.num_kv_heads * model.head_dim * model.dtype.itemsize
    group: list[TargetText] = []
    num_bytes = 0
    for text in texts:
        own = (len(text.token_ids) + text.num_response_tokens * _BRANCH_ROOM) * token_bytes
        if group and num_bytes + own > _MAX_KV_BYTES:
            yield group
            group, num_bytes = [], 0
        group.append(text)
        num_bytes += own
    yield group


def _position(branch: Branch) -> int:
    return branch.text.text.prompt_length + branch.anchor + branch.depth - 1


def _branch_segment(text: DraftedText, branches: Sequence[Branch]) -> Segment:
    """Lay guesses out: they see the text up to their anchor, and their own path."""
    starts = [text.text.prompt_length + branch.anchor for branch in branches]
    first, last = min(starts), max(starts)
    paths = [branch.path for branch in branches]
    ancestors = list(dict.fromkeys(node for path in paths for node in path[:-1]))
    columns = {node: last - first + i for i, node in enumerate([*ancestors, *branches])}
    mask = np.zeros((len(branches), last - first + len(columns)), dtype=np.bool_)
    for row, (start, path) in enumerate(zip(starts, paths, strict=True)):
        mask[row, : start - first] = True
        mask[row, [columns[node] for node in path]] = True
    own_slots = [branch.slot for branch in branches]
    return Segment(
        token_ids=[branch.token_id for branch in branches],
        positions=[_position(branch) for branch in branches],
        write_slots=own_slots,
        context_slots=np.array(text.slots[:first], dtype=np.int64),
        tree_slots=[*text.slots[first:last], *(node.slot for node in ancestors), *own_slots],
        tree_mask=mask,
        output_rows=range(len(branches)),
    )


def _batches(texts: Sequence[TargetText]) -> Iterator[Sequence[TargetText]]:
    """Yield neighbouring texts whose tokens fit into one pass; a long one goes alone."""
    first = 0
    while first < len(texts):
        stop, num_rows = first + 1, len(texts[first].token_ids)
        while stop < len(texts) and num_rows + len(texts[stop].token_ids) <= _ROWS_OF_READING:
            num_rows += len(texts[stop].token_ids)
            stop += 1
        yield texts[first:stop]
        first = stop
