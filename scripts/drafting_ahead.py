"""What drafting ahead can bring over a link: `python -m scripts.drafting_ahead --round-trip 19`.

The drafter is the real one and the texts are the target's own, recorded; only time is
computed: what a pass and a step of the drafter take is given, a frame is half a round trip
on its way, and each node costs whoever writes or reads it a little. Target and drafter
have cores of their own here, and no pass waits for drafts, unless the exchange is the
synchronous one (`--sync`). So the figures are limits, and do not depend on the machine.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scripts.far_drafter import LINK, NODE_MS, CountingGrower, FarDrafter, Link, time_of

from treedraft.bench.prompts import PROMPTS
from treedraft.core.exchange import Commit, DraftFrame, SessionOpen, TargetFrame
from treedraft.core.sampling import SamplingParameters, SpeculationOptions
from treedraft.core.session import DraftSpec
from treedraft.core.token_tree import TokenTree
from treedraft.draft.assembly import assemble
from treedraft.draft.drafter import Drafter
from treedraft.draft.links import FrameArrived, LinkClosed, LinkOpened
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

# `treedraft bench passes` on two cores of an EPYC, float32.
PASS_MS = {1: 19.0, 2: 18.6, 4: 19.7, 6: 20.3, 8: 21.5, 12: 24.3, 16: 26.6}
_MAX_DEPTH = 16
_MAX_CHILDREN = 16
_CREDIT = 1 << 40


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
        drafter.take(LinkOpened(LINK, self._vocab_size, sent.append))
        drafter.take(FrameArrived(LINK, _opening(known, text), 0))
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
        drafter.take(LinkClosed(LINK))

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
