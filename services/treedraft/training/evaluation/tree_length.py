"""τ by the shape of the tree: how many tokens a pass over the best N nodes emits.

The target's text is known and does not depend on drafts, so a round can be
replayed: grow the tree under the root, take the N nodes of the best path scores,
follow the text through them, emit what was followed and the bonus token, go on
from there. The best N nodes are those that a best-first search pops first, since
no child scores above its parent. So one search tells at which budget each node
of the text's path would be in the pass, and it may stop where the text leaves
the tree: what else would be grown cannot change the walk.

Shapes are limited by nodes, by depth and by children of a node; one child is a
chain. Searches of all texts and shapes run side by side, as generators that
yield the guess whose children they need, and share what was expanded.
"""

import heapq
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from treedraft.training.evaluation.probe import Branch, Child, DraftedText, DraftProbe


@dataclass(frozen=True, slots=True, order=True)
class TreeShape:
    """What a pass may hold: so many nodes, no deeper than that, so many children of a node."""

    budget: int
    depth: int
    num_children: int

    @classmethod
    def chain(cls, length: int) -> "TreeShape":
        """Return the shape of a chain."""
        return cls(length, length, 1)


@dataclass(frozen=True, slots=True)
class TreeLength:
    """What passes of one shape emitted over some texts.

    Attributes:
        shape: of the trees.
        temperature: of the texts.
        category: of their prompts, empty for all.
        num_rounds: passes; the one over the prompt is not counted.
        num_tokens: emitted by them, bonus tokens included.
    """

    shape: TreeShape
    temperature: float
    category: str
    num_rounds: int
    num_tokens: int

    @property
    def tau(self) -> float:
        """τ: tokens emitted per pass."""
        return self.num_tokens / self.num_rounds if self.num_rounds else 1.0


@dataclass(frozen=True, slots=True)
class GrowthRule:
    """Which guesses are kept and expanded; as the drafter's own settings."""

    min_score: float
    eos_token_ids: frozenset[int]


_Job = tuple[TreeShape, int]

Need = Generator[Branch, None, int]
"""Yields guesses whose children it needs; ends with a number."""


def tree_lengths(
    probe: DraftProbe,
    drafted: Sequence[DraftedText],
    shapes: Iterable[TreeShape],
    *,
    min_score: float,
    max_rows: int,
    tell: Callable[[float], None] = lambda share: None,
) -> dict[TreeShape, list[int]]:
    """Return for each shape the number of rounds that each text takes.

    A text of n tokens is emitted in so many rounds after the pass over its
    prompt, which emits the first token.

    Args:
        probe: has read the texts.
        drafted: the texts.
        shapes: of the trees.
        min_score: path score below which nothing is grown.
        max_rows: guesses expanded in one pass.
        tell: told the share that is done.
    """
    rule = GrowthRule(min_score, probe.eos_token_ids)
    jobs = {
        (shape, index): count_rounds(text, shape, rule)
        for shape in shapes
        for index, text in enumerate(drafted)
    }
    rounds = _run_together(probe, jobs, max_rows=max_rows, tell=tell)
    return {shape: [rounds[shape, index] for index in range(len(drafted))] for shape, _ in jobs}


def _run_together(
    probe: DraftProbe,
    jobs: dict[_Job, Need],
    *,
    max_rows: int,
    tell: Callable[[float], None],
) -> dict[_Job, int]:
    """Run generators to their ends, expanding in batches what they need."""
    results: dict[_Job, int] = {}
    waiting: dict[Branch, list[_Job]] = {}

    def advance(key: _Job) -> None:
        try:
            needed = next(jobs[key])
            while needed.children is not None:  # expanded for somebody else
                needed = next(jobs[key])
        except StopIteration as end:
            results[key] = end.value
        else:
            waiting.setdefault(needed, []).append(key)

    for key in jobs:
        advance(key)
    while waiting:
        batch = list(waiting)[:max_rows]
        probe.expand(batch)
        for branch in batch:
            for key in waiting.pop(branch):
                advance(key)
        tell(len(results) / len(jobs))
    return results


def count_rounds(text: DraftedText, shape: TreeShape, rule: GrowthRule) -> Need:
    """Replay the rounds of one text and return their number."""
    num_rounds, root = 0, 1
    while root < text.text.num_response_tokens:
        accepted = yield from accepted_length(text, root, shape, rule)
        num_rounds += 1
        root += accepted + 1
    return num_rounds


def accepted_length(text: DraftedText, root: int, shape: TreeShape, rule: GrowthRule) -> Need:
    """Return how many drafted tokens a pass accepts under the root at `root`.

    Args:
        text: its response tokens before `root` are committed.
        root: index of the response token that the root's children guess.
        shape: of the tree.
        rule: of its growth.
    """
    accepted, order, own = 0, count(), 0.0
    # The text's own next token scores -own.
    # (negative score, order, depth, guess; None: the text's own next token)
    found: list[tuple[float, int, int, Branch | None]] = []

    def add(children: Sequence[Child], score: float, depth: int, parent: Branch | None) -> bool:
        """Add children; return whether the text's own next token is among them."""
        place = root + depth
        nonlocal own
        is_on_path = False
        for rank, (token_id, log_probability) in enumerate(children[: shape.num_children]):
            if rank and log_probability < rule.min_score:
                break
            guess: Branch | None = None
            if parent is not None:
                guess = parent.below(token_id)
            elif token_id != text.response_token(place):
                guess = text.beside(place, token_id)
            else:
                is_on_path, own = True, -score - log_probability
            heapq.heappush(found, (-score - log_probability, next(order), depth + 1, guess))
        return is_on_path

    if not add(text.children[root], 0.0, 0, None):
        return 0
    for num_popped in range(1, shape.budget + 1):
        if not found:
            break
        negative_score, _, depth, guess = heapq.heappop(found)
        is_grown = depth < shape.depth and -negative_score >= rule.min_score
        if guess is not None:
            if num_popped + sum(entry[0] < own for entry in found) >= shape.budget:
                break  # enough better guesses are known to keep the text's own token out
            if is_grown and guess.token_id not in rule.eos_token_ids:
                if guess.children is None:
                    yield guess
                assert guess.children is not None
                add(guess.children, -negative_score, depth, guess)
            continue
        accepted = depth
        place = root + depth
        if not is_grown or place >= text.text.num_response_tokens:
            break
        if not add(text.children[place], -negative_score, depth, None):
            break
    return accepted


def summarise(
    drafted: Sequence[DraftedText],
    shape: TreeShape,
    rounds: Sequence[int],
    *,
    category: str = "",
) -> TreeLength:
    """Return what all texts, or those of one category, come to; they share a temperature."""
    counted = [
        (text.text.num_response_tokens - 1, number)
        for text, number in zip(drafted, rounds, strict=True)
        if category in ("", text.text.category)
    ]
    return TreeLength(
        shape=shape,
        temperature=drafted[0].text.temperature,
        category=category,
        num_rounds=sum(number for _, number in counted),
        num_tokens=sum(tokens for tokens, _ in counted),
    )
