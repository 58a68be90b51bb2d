"""Does a row depend on anything but its text? Compares logits bit by bit.

A text is computed token by token in scattered slots, which is plain decoding, and then
again in every other way that the engine has: in chunks, beside other sessions, and as the
branches of a tree. And greedy texts by trees of good, bad and mixed drafts must be those
of plain decoding, token for token.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scripts.gpu.subjects import prefill, rows, runner_of

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.sampler import CoupledDraws, LawRow

GREEDY = SamplingParameters(temperature=0.0)
HOT = SamplingParameters(temperature=0.8, seed=11)


def check(model: Any, *, num_context: int, num_steps: int) -> Iterator[tuple[str, Any]]:
    """Yield what was compared and how much of it differed."""
    runner = runner_of(model, 4096)
    random = np.random.default_rng(0)
    slots = random.permutation(4096)
    text = random.integers(3, model.vocab_size - 1, num_context).tolist()
    own, others = slots[:1500], slots[1500:]
    plain = _one_by_one(runner, text, own)
    yield "logits are finite", bool(torch.isfinite(plain).all())
    for size in (7, 64, 300):
        yield f"chunks of {size}", _differing(plain, _in_chunks(runner, text, others, size))
    for name, sampling in (("greedy", GREEDY), ("sampled", HOT)):
        expected = _decode(runner, text, own, num_steps, sampling, _no_drafts)
        for kind, drafts in (
            ("good drafts", _good_drafts(expected, len(text))),
            ("bad drafts", _bad_drafts(random, model.vocab_size)),
        ):
            got = _decode(runner, text, others, num_steps, sampling, drafts)
            same = sum(a == b for a, b in zip(expected, got, strict=True))
            yield f"{name}, {kind}: tokens equal", f"{same} of {len(expected)}"
    yield "beside others", _differing(plain, _beside_others(runner, text, others))


def _one_by_one(runner: Any, text: list[int], slots: np.ndarray) -> torch.Tensor:
    steps = [runner.forward([rows(text, i, i + 1, slots)]).clone() for i in range(len(text))]
    return torch.cat(steps)


def _in_chunks(runner: Any, text: list[int], slots: np.ndarray, size: int) -> torch.Tensor:
    ends = [*range(0, len(text), size), len(text)]
    pairs = itertools.pairwise(ends)
    return torch.cat([runner.forward([rows(text, a, b, slots)]).clone() for a, b in pairs])


def _beside_others(runner: Any, text: list[int], slots: np.ndarray) -> torch.Tensor:
    found = []
    for i in range(len(text)):
        other = [
            rows([(7 * k + i) % 90 + 3] * (k + 1), 0, k + 1, slots[1600 + 40 * k :])
            for k in range(i % 20)
        ]
        found.append(runner.forward([*other, rows(text, i, i + 1, slots)])[-1:].clone())
    return torch.cat(found)


def _differing(expected: torch.Tensor, found: torch.Tensor) -> str:
    differs = (expected != found).any(dim=1)
    worst = float((expected - found).abs().max())
    return f"{int(differs.sum())} of {len(expected)} rows differ, by {worst:.3g} at most"


def _decode(
    runner: Any,
    text: list[int],
    slots: np.ndarray,
    num_tokens: int,
    sampling: SamplingParameters,
    drafts_after: Any,
) -> list[int]:
    """Continue a text by chains of drafts beside a sibling of each; return the new tokens."""
    prefill(runner, text[:-1], slots)
    whole, draws = list(text), CoupledDraws()
    while len(whole) < len(text) + num_tokens:
        root = len(whole) - 1
        chain = drafts_after(whole)
        # Every node of the chain has a sibling before it, so that paths are no lines.
        tokens, parents = [whole[-1]], [-1]
        last = 0
        for token in chain:
            tokens += [(token + 1) % 90 + 3, token]
            parents += [last, last]
            last = len(tokens) - 1
        mask = np.eye(len(tokens), dtype=np.bool_)
        depths = [0] * len(tokens)
        for node, parent in enumerate(parents[1:], start=1):
            mask[node] |= mask[parent]
            depths[node] = depths[parent] + 1
        positions = [root + depth for depth in depths]
        segment = rows(
            [*whole[:-1], *tokens], root, root + len(tokens), slots, None, mask, positions
        )
        laws = [LawRow(sampling, position=place + 1) for place in positions]
        drawn = draws.draw(runner.forward([segment]), laws)
        moves, row = [], 0
        whole.append(drawn[0])
        while True:
            children = [n for n, p in enumerate(parents) if p == row and n]
            child = next((n for n in children if tokens[n] == drawn[row]), None)
            if child is None:
                break
            moves.append(child)
            row = child
            whole.append(drawn[row])
        runner.pool.copy_slots(
            [int(slots[root + n]) for n in moves],
            [int(slots[root + 1 + i]) for i in range(len(moves))],
        )
    return whole[len(text) : len(text) + num_tokens]


def _no_drafts(_text: list[int]) -> list[int]:
    return []


def _good_drafts(expected: list[int], num_before: int) -> Any:
    def drafts(text: list[int]) -> list[int]:
        return expected[len(text) - num_before :][:5]

    return drafts


def _bad_drafts(random: np.random.Generator, vocab_size: int) -> Any:
    def drafts(_text: list[int]) -> list[int]:
        return random.integers(3, vocab_size - 1, 4).tolist()

    return drafts
