"""What drafting ahead can bring over a link: `python -m scripts.drafting_ahead --round-trip 19`.

The drafter is the real one and the texts are the target's own, recorded; only time is
computed: what a pass and a step of the drafter take is given, a frame is half a round trip
on its way, and each node costs whoever writes or reads it a little. Target and drafter
have cores of their own here, and no pass waits for drafts, unless the exchange is the
synchronous one (`--sync`). So the figures are limits, and do not depend on the machine.
"""

import argparse
import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from treedraft.bench.prompts import PROMPTS
from treedraft.core.exchange import Commit, DraftFrame, SessionOpen, TargetFrame
from treedraft.core.sampling import SamplingParameters, SpeculationOptions
from treedraft.core.session import DraftSpec
from treedraft.core.token_tree import TokenTree
from treedraft.draft.assembly import assemble
from treedraft.draft.drafter import Drafter
from treedraft.draft.links import FrameArrived, LinkClosed, LinkOpened
from treedraft.draft.model_grower import ModelGrower, StepReport
from treedraft.draft.session import DraftSession
from treedraft.draft.settings import DraftSettings, GrowthSettings, LookupSettings
from treedraft.inference.drafting_model import load_drafting_model
from treedraft.inference.models import LoadedModel, load_model
from treedraft.inference.weights import be_silent
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing
from treedraft.training.evaluation.agreement import measure_agreement
from treedraft.training.evaluation.held_out import HeldOutPrompt
from treedraft.training.evaluation.probe import DraftProbe
from treedraft.training.evaluation.rehearsal import best_nodes, follow
from treedraft.training.evaluation.settings import EvaluationSettings
from treedraft.training.evaluation.texts import TargetText, target_texts

# `treedraft bench passes` on two cores of an EPYC, float32; the drafter's steps likewise.
PASS_MS = {1: 19.0, 2: 18.6, 4: 19.7, 6: 20.3, 8: 21.5, 12: 24.3, 16: 26.6}
STEP_MS = {1: 1.6, 4: 2.2, 8: 2.8, 16: 4.0, 32: 6.0}
NODE_MS = 0.003
_MAX_DEPTH = 16
_MAX_CHILDREN = 16
_LINK = 1
_CREDIT = 1 << 40


def time_of(times_ms: Mapping[int, float], num_rows: int) -> float:
    """Return what so many rows take: on lines between what is known, in proportion beyond."""
    sizes = sorted(times_ms)
    index = bisect.bisect_left(sizes, num_rows)
    if index == len(sizes):
        return times_ms[sizes[-1]] * num_rows / sizes[-1]
    if index == 0 or sizes[index] == num_rows:
        return times_ms[sizes[index]]
    low, high = sizes[index - 1], sizes[index]
    share = (num_rows - low) / (high - low)
    return times_ms[low] * (1 - share) + times_ms[high] * share


@dataclass(frozen=True, slots=True)
class Link:
    """The way, what a pass verifies, whether it waits for whole trees, how long steps take."""

    round_trip_ms: float
    num_verified: int = 8
    is_synchronous: bool = False
    step_share: float = 1.0


@dataclass(slots=True)
class Played:
    """What some texts came to."""

    time_ms: float = 0.0
    num_tokens: int = 0
    num_rounds: int = 0
    num_hits: int = 0
    num_ready: int = 0  # rounds that had a tree
    num_sent: int = 0  # nodes

    def line(self) -> str:
        """Return it in words."""
        rounds, speed = max(1, self.num_rounds), self.num_tokens * PASS_MS[1] / self.time_ms
        return (
            f"S {speed:.2f}, tau {self.num_tokens / rounds:.2f}, "
            f"hits {self.num_hits / rounds:.0%}, a tree is there {self.num_ready / rounds:.0%}, "
            f"{self.num_sent / rounds:.0f} nodes sent a round"
        )


class CountingGrower:
    """A draft model that counts the rows it runs, of a single pass a step (`--levels 1`)."""

    def __init__(self, grower: ModelGrower) -> None:
        """Begin at none."""
        self._grower = grower
        self.num_rows = 0
        self.max_new_nodes = grower.max_new_nodes
        self.passes_per_step = grower.passes_per_step
        self.num_free_slots = self.num_slots = grower.num_slots
        self.wants_work = grower.wants_work
        self.target_says = grower.target_says
        self.add = grower.add
        self.check_tokens = grower.check_tokens
        self.remove = grower.remove

    def step(self, sessions: Sequence[DraftSession]) -> StepReport:
        """Run one pass and count its rows."""
        report = self._grower.step(sessions)
        self.num_rows += sum(report.num_rows.values())
        return report


@dataclass(slots=True)
class FarDrafter:
    """A drafter at the end of a link, on a clock of its own."""

    drafter: Drafter
    grower: "CountingGrower"
    link: Link
    sent: list[DraftFrame]
    now_ms: float = 0.0
    is_idle: bool = False
    on_the_way_there: list[tuple[float, TargetFrame]] = field(default_factory=list)
    on_the_way_back: list[tuple[float, DraftFrame]] = field(default_factory=list)

    def tell(self, frame: TargetFrame, now_ms: float) -> None:
        """Send a frame there."""
        self.on_the_way_there.append((now_ms + self.link.round_trip_ms / 2, frame))

    def run_until(self, limit_ms: float) -> None:
        """Let it compute until then."""
        while self.now_ms < limit_ms:
            while self.on_the_way_there and self.on_the_way_there[0][0] <= self.now_ms:
                self.drafter.take(FrameArrived(_LINK, self.on_the_way_there.pop(0)[1], 0))
                self.is_idle = False
            if not self.is_idle:
                self._step()
            elif self.on_the_way_there and self.on_the_way_there[0][0] < limit_ms:
                self.now_ms = self.on_the_way_there[0][0]
            else:
                self.now_ms = limit_ms

    def _step(self) -> None:
        before = self.grower.num_rows
        self.is_idle = not self.drafter.step()
        num_rows = self.grower.num_rows - before
        num_nodes = sum(growth.num_nodes for frame in self.sent for growth in frame.growths)
        step_ms = time_of(STEP_MS, num_rows) if num_rows else 0.0
        self.now_ms += self.link.step_share * step_ms + NODE_MS * num_nodes
        arrives_ms = self.now_ms + self.link.round_trip_ms / 2
        self.on_the_way_back += [(arrives_ms, frame) for frame in self.sent]
        self.sent.clear()

    def arrived(self, now_ms: float) -> list[DraftFrame]:
        """Return what has come by now."""
        here = [frame for due_ms, frame in self.on_the_way_back if due_ms <= now_ms]
        self.on_the_way_back = [one for one in self.on_the_way_back if one[0] > now_ms]
        return here


class Player:
    """Plays recorded texts through a drafter at the end of a link."""

    def __init__(
        self, draft: LoadedModel, growth: GrowthSettings, link: Link, vocab_size: int
    ) -> None:
        """Prepare the draft model."""
        lookup = LookupSettings(enabled=False)
        self._settings = DraftSettings(kv_tokens=4096, growth=growth, lookup=lookup)
        self._grower = CountingGrower(assemble(draft, self._settings).grower)
        self._link = link
        self._vocab_size = vocab_size

    def play(self, texts: Sequence[TargetText]) -> Played:
        """Play them one after the other."""
        played = Played()
        for text in texts:
            # No session has a trace context, so that no span is ever made.
            tracing = Tracing("draft", TelemetrySettings(), exporter=InMemorySpanExporter())
            metrics = Metrics("draft")
            drafter = Drafter(self._settings, self._grower, tracing=tracing, metrics=metrics)
            self._play(text, drafter, played)
            tracing.shutdown()
        return played

    def _play(self, text: TargetText, drafter: Drafter, played: Played) -> None:
        sent: list[DraftFrame] = []
        far = FarDrafter(drafter, self._grower, self._link, sent)
        known = text.token_ids[: text.prompt_length + 1]
        drafter.take(LinkOpened(_LINK, self._vocab_size, sent.append))
        drafter.take(FrameArrived(_LINK, _opening(known, text), 0))
        tree, now_ms, rest_length = TokenTree(len(known)), 0.0, -1
        while tree.base_length < len(text.token_ids):
            while True:
                far.run_until(now_ms)
                num_nodes, rests = _graft(far.arrived(now_ms), tree, text)
                rest_length, played.num_sent = max(rest_length, rests), played.num_sent + num_nodes
                now_ms += NODE_MS * num_nodes
                if not self._link.is_synchronous or rest_length == tree.base_length:
                    break
                now_ms += 0.5
            now_ms = self._pass(text, tree, far, now_ms, played)
        played.time_ms += now_ms
        drafter.take(LinkClosed(_LINK))

    def _pass(
        self, text: TargetText, tree: TokenTree, far: FarDrafter, now_ms: float, played: Played
    ) -> float:
        """Verify the best nodes and commit; return when that is over."""
        played.num_rounds += 1
        played.num_ready += len(tree) > 0
        admitted = best_nodes(tree, self._link.num_verified, _MAX_DEPTH)
        now_ms += time_of(PASS_MS, 1 + len(admitted))
        base = tree.base_length
        if not self._link.is_synchronous:  # what came during the pass is there for the next one
            far.run_until(now_ms)
            num_nodes, _ = _graft(far.arrived(now_ms), tree, text)
            played.num_sent += num_nodes
            now_ms += NODE_MS * num_nodes
        accepted = follow(tree, text.token_ids[base:], admitted)
        emitted = text.token_ids[base : base + accepted + 1]
        played.num_tokens += len(emitted)
        played.num_hits += tree.reroot(emitted).is_hit
        far.tell(TargetFrame(commits=[Commit(0, base, emitted)]), now_ms)
        return now_ms


def _opening(known: tuple[int, ...], text: TargetText) -> TargetFrame:
    spec = DraftSpec(
        session_id="0",
        token_ids=known,
        prompt_length=text.prompt_length,
        sampling=SamplingParameters(temperature=text.temperature, seed=text.seed),
        speculation=SpeculationOptions(),
    )
    return TargetFrame(opens=[SessionOpen(0, spec)], credit_nodes=_CREDIT)


def _graft(frames: Sequence[DraftFrame], tree: TokenTree, text: TargetText) -> tuple[int, int]:
    """Take over what came; return how many nodes that were, and where the drafter rests."""
    growths = [growth for frame in frames for growth in frame.growths]
    for growth in growths:
        tree.graft(growth, text.token_ids[: tree.base_length])
    rests = [rest.base_length for frame in frames for rest in frame.rests]
    return sum(growth.num_nodes for growth in growths), max(rests, default=-1)


def _recorded(num_prompts: int, num_tokens: int) -> tuple[tuple[TargetText, ...], int]:
    target = load_model("default", dtype="float32", device="cpu", progress=be_silent)
    prompts = [HeldOutPrompt("bench", text) for text in PROMPTS[:num_prompts]]
    settings = EvaluationSettings(temperatures=(0.0,), max_tokens=num_tokens)
    return target_texts(target, prompts, settings, be_silent), target.vocab_size


def _misses(draft: LoadedModel, texts: Sequence[TargetText], vocab_size: int) -> str:
    probe = DraftProbe(draft, texts, num_children=_MAX_CHILDREN, vocab_size=vocab_size)
    found = measure_agreement(probe.read(texts), num_children=_MAX_CHILDREN)
    shares = [f"{count}: {1 - share:.3f}" for count, share in enumerate(found.acceptance, start=1)]
    missing = f"not in the head: {1 - found.coverage:.3f}"
    return f"not among so many children: {', '.join(shares)}; {missing}"


def main() -> None:
    """Read the command line and print a line for each round trip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--round-trip", type=float, action="append", required=True)
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--nodes", type=int, default=0, help="0: 64, or as many as are verified")
    for name, number in {
        "verified": 8,
        "children": 4,
        "rows": 4,
        "levels": 1,
        "prompts": 4,
        "tokens": 64,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    for name, share in {"min-score": -4.0, "min-child-score": -8.0, "step-share": 1.0}.items():
        parser.add_argument(f"--{name}", type=float, default=share)
    asked = parser.parse_args()
    texts, vocab_size = _recorded(asked.prompts, asked.tokens)
    draft = load_drafting_model("smollm2-135m-drafter", device="cpu", progress=be_silent)
    print(_misses(draft, texts, vocab_size))
    growth = GrowthSettings(
        num_children=asked.children,
        max_live_nodes=asked.nodes or (asked.verified if asked.sync else 64),
        max_rows_per_session=asked.rows,
        levels=asked.levels,
        min_score=asked.min_score,
        min_child_score=asked.min_child_score,
    )
    for round_trip_ms in asked.round_trip:
        link = Link(round_trip_ms, asked.verified, asked.sync, asked.step_share)
        print(f"{round_trip_ms:g} ms: {Player(draft, growth, link, vocab_size).play(texts).line()}")


if __name__ == "__main__":
    main()
