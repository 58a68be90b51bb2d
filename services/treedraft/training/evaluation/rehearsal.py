"""A drafter at work without a target: its own loop, fed with texts that are known.

The other end of its link plays the target: it grafts what arrives, takes the best
nodes, follows the text through them, commits, and so on. Everything in between is
the product: sessions, lookup, draft model, mixing and calibration of scores, limits
of growth. So it measures any drafter, lookup alone too, one pass after another;
`tree_length` is for sweeps over shapes.

Invariant: no clock decides anything, as long as the drafter does not weigh its
steps against the target's time (`growth.shares_device`).
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from treedraft.core.errors import UnavailableError
from treedraft.core.exchange import Commit, DraftFrame, SessionOpen, TargetFrame
from treedraft.core.growth import ROOT
from treedraft.core.sampling import SamplingParameters, SpeculationOptions
from treedraft.core.session import DraftSpec
from treedraft.core.token_tree import TokenTree
from treedraft.draft.drafter import Drafter, Grower
from treedraft.draft.links import FrameArrived, LinkClosed, LinkOpened
from treedraft.draft.settings import DraftSettings
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing
from treedraft.training.evaluation.texts import TargetText

OnStep = Callable[[int, Callable[[], bool]], bool]

_LINK = 1
_CREDIT = 1 << 40  # nodes; it is never used up


@dataclass(slots=True)
class Rehearsed:
    """What the rounds over one text came to; the pass over its prompt is not counted.

    `num_nodes` were admitted to its passes; `num_steps` are steps of the drafter, over
    all texts that were drafted for together.
    """

    num_rounds: int = 0
    num_tokens: int = 0
    num_nodes: int = 0
    num_steps: int = 0

    @property
    def tau(self) -> float:
        """τ: tokens emitted per pass."""
        return self.num_tokens / self.num_rounds if self.num_rounds else 1.0


class Rehearsal:
    """One drafter, and the sessions that it drafts for. A context manager."""

    def __init__(self, settings: DraftSettings, grower: Grower | None, *, vocab_size: int) -> None:
        """Set a drafter up.

        Args:
            settings: of growth and lookup.
            grower: the draft model; None drafts by lookup alone.
            vocab_size: ids that the target has.
        """
        # No session has a trace context, so that no span is ever made.
        self._tracing = Tracing("draft", TelemetrySettings(), exporter=InMemorySpanExporter())
        self._drafter = Drafter(settings, grower, tracing=self._tracing, metrics=Metrics("draft"))
        self._texts: dict[int, TargetText] = {}
        self._trees: dict[int, TokenTree] = {}
        self._num_opened = 0
        self._drafter.take(LinkOpened(_LINK, vocab_size, self._receive))
        self._send(TargetFrame(credit_nodes=_CREDIT))

    def __enter__(self) -> "Rehearsal":
        """Return the rehearsal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give everything back."""
        self._drafter.take(LinkClosed(_LINK))
        self._tracing.shutdown()

    def run(
        self,
        texts: Sequence[TargetText],
        *,
        budget: int,
        max_depth: int,
        max_steps: int,
        on_step: OnStep = lambda _, step: step(),
    ) -> list[Rehearsed]:
        """Draft for some texts at once, round by round, until all are emitted.

        Args:
            texts: what will have been the target's text.
            budget: nodes of a pass, the best that have come.
            max_depth: of them.
            max_steps: of the drafter between two passes; fewer if it has nothing to do.
            on_step: is given the number of a step since the last pass, and the step;
                runs it and returns what it returned. To time it, say.
        """
        numbers = range(self._num_opened, self._num_opened + len(texts))
        self._num_opened += len(texts)
        results = {number: Rehearsed() for number in numbers}
        for number, text in zip(numbers, texts, strict=True):
            self._open(number, text)
        while self._texts:
            num_steps = self._grow(max_steps, on_step)
            for number in list(self._texts):
                results[number].num_steps += num_steps
                num_tokens, num_nodes = self._play_round(number, budget, max_depth)
                results[number].num_tokens += num_tokens
                results[number].num_nodes += num_nodes
                results[number].num_rounds += 1
                self._close_if_over(number)
        return list(results.values())

    def _open(self, number: int, text: TargetText) -> None:
        known = text.token_ids[: text.prompt_length + 1]  # the pass over the prompt emits one
        self._texts[number] = text
        self._trees[number] = TokenTree(len(known))
        spec = DraftSpec(
            session_id=str(number),
            token_ids=known,
            prompt_length=text.prompt_length,
            sampling=SamplingParameters(temperature=text.temperature, seed=text.seed),
            speculation=SpeculationOptions(),
        )
        self._send(TargetFrame(opens=[SessionOpen(number, spec)]))
        self._close_if_over(number)

    def _grow(self, max_steps: int, on_step: OnStep) -> int:
        num_steps = 0
        while num_steps < max_steps and on_step(num_steps, self._drafter.step):
            num_steps += 1
        return num_steps

    def _play_round(self, number: int, budget: int, max_depth: int) -> tuple[int, int]:
        """Verify the best nodes and commit; return tokens emitted and nodes admitted."""
        text, tree = self._texts[number], self._trees[number]
        base = tree.base_length
        admitted = best_nodes(tree, budget, max_depth)
        accepted = follow(tree, text.token_ids[base:], admitted)
        emitted = text.token_ids[base : base + accepted + 1]
        tree.reroot(emitted)
        self._send(TargetFrame(commits=[Commit(number, base, emitted)]))
        return len(emitted), len(admitted)

    def _close_if_over(self, number: int) -> None:
        if self._trees[number].base_length >= len(self._texts[number].token_ids):
            del self._texts[number]
            self._send(TargetFrame(closes=[number]))

    def _send(self, frame: TargetFrame) -> None:
        self._drafter.take(FrameArrived(_LINK, frame, 0))

    def _receive(self, frame: DraftFrame) -> None:
        for refusal in frame.refusals:
            raise UnavailableError(
                f"the drafter refused a text: {refusal.reason}", reason=refusal.reason
            )
        for growth in frame.growths:
            number = growth.session_number
            if number in self._texts:
                committed = self._texts[number].token_ids[: self._trees[number].base_length]
                self._trees[number].graft(growth, committed)


def best_nodes(tree: TokenTree, budget: int, max_depth: int) -> set[int]:
    """Return the nodes of the best path scores, closed under ancestors."""
    chosen: set[int] = set()
    found = [(-tree.score(node_id), node_id, 1) for node_id in tree.children(ROOT).values()]
    heapq.heapify(found)
    while found and len(chosen) < budget:
        _, node_id, depth = heapq.heappop(found)
        chosen.add(node_id)
        if depth < max_depth:
            for child_id in tree.children(node_id).values():
                heapq.heappush(found, (-tree.score(child_id), child_id, depth + 1))
    return chosen


def follow(tree: TokenTree, token_ids: Sequence[int], admitted: set[int]) -> int:
    """Return how many of the tokens to come are on a path of admitted nodes."""
    place = ROOT
    for accepted, token_id in enumerate(token_ids):
        child = tree.children(place).get(token_id)
        if child is None or child not in admitted:
            return accepted
        place = child
    return len(token_ids)
