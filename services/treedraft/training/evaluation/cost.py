"""What drafting costs on this machine: c, a draft step as a share of a target pass.

Both are measured as the services run them: the target's pass through its runner,
over so many rows at once, and the draft step through the drafter's own loop, from
the choice of nodes to the frame that leaves, so that everything but the wire is
in it. They take turns, as they do on cores that they share, so each finds the
caches as the other left them. Medians, since what else the machine does only
ever adds.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from treedraft.draft.assembly import assemble
from treedraft.draft.settings import DraftSettings, GrowthSettings, LookupSettings
from treedraft.inference.models import LoadedModel
from treedraft.inference.runner import Runner
from treedraft.inference.segment import Segment
from treedraft.training.evaluation.passes import make_runner, prompt_segment
from treedraft.training.evaluation.rehearsal import Rehearsal
from treedraft.training.evaluation.settings import EvaluationSettings
from treedraft.training.evaluation.texts import TargetText
from treedraft.training.evaluation.tree_length import TreeLength, TreeShape

# Steps between two passes. The first one, which reads what was committed, is not
# counted: it is of one row, or of a whole prompt.
_STEPS_IN_ROUND = 4
_ROWS_OF_STEPS = (1, 4)
_BUDGET = 4


@dataclass(frozen=True, slots=True)
class DraftStepCost:
    """The median time of a draft step of so many rows, on text of one temperature.

    Where a step runs several passes, one for each level, this is its share for one.
    """

    num_rows: int
    temperature: float
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Times on one machine, with `num_context` tokens before.

    `target_ms` are median times of a target pass, by rows: the root and the nodes.
    """

    num_threads: int
    num_context: int
    target_ms: tuple[tuple[int, float], ...]
    draft_steps: tuple[DraftStepCost, ...]

    def target(self, num_rows: float) -> float:
        """Return the time of a target pass in ms, interpolated between measured sizes."""
        rows, times = zip(*self.target_ms, strict=True)
        return float(np.interp(num_rows, rows, times))

    def draft(self, num_rows: int, temperature: float) -> float:
        """Return the time of a draft step in ms; of the nearest temperature measured."""
        return min(
            (step for step in self.draft_steps if step.num_rows == num_rows),
            key=lambda step: abs(step.temperature - temperature),
        ).milliseconds

    def ratio(self, num_rows: int, temperature: float = 0.0) -> float:
        """Return c: a draft step of so many rows as a share of a target pass over one."""
        return self.draft(num_rows, temperature) / self.target(1)


@dataclass(frozen=True, slots=True)
class PredictedSpeed:
    """S that follows from τ and the costs, for one stream.

    `on_shared_cores`: target and drafter take turns, and a tree of depth d takes
    d steps. `on_own_cores`: the drafter is done whenever the target comes round;
    a bound from above.
    """

    shape: TreeShape
    temperature: float
    tau: float
    on_shared_cores: float
    on_own_cores: float


def predict_speed(length: TreeLength, cost: Cost) -> PredictedSpeed:
    """Return the speed over the same engine without speculation."""
    shape, temperature = length.shape, length.temperature
    plain, verifying = cost.target(1), cost.target(1 + shape.budget)
    drafting = cost.draft(_ROWS_OF_STEPS[0], temperature)
    if shape.num_children > 1:
        drafting += (shape.depth - 1) * cost.draft(_ROWS_OF_STEPS[-1], temperature)
    else:
        drafting *= shape.depth
    return PredictedSpeed(
        shape=shape,
        temperature=temperature,
        tau=length.tau,
        on_shared_cores=length.tau * plain / (verifying + drafting),
        on_own_cores=length.tau * plain / verifying,
    )


def measure_cost(
    target: LoadedModel,
    draft: LoadedModel | None,
    texts: Sequence[TargetText],
    settings: EvaluationSettings,
    *,
    num_threads: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Cost:
    """Time passes of both models, in turns.

    Args:
        target: the model that verifies.
        draft: the model that drafts; None times the target alone.
        texts: of the target; a long one of each temperature is drafted for.
        settings: context, sizes and repeats.
        num_threads: that torch uses here, for the record.
        clock: in seconds.
    """
    longest = {
        text.temperature: text for text in sorted(texts, key=lambda text: len(text.token_ids))
    }
    examples = [
        _cut(longest[temperature], settings.cost_context)
        for temperature in sorted(longest)[:2]  # greedy, and one with noise
    ]
    passes = _TargetPasses(target, examples[0], settings, clock)
    steps = []
    for example in examples if draft else ():
        for num_rows in _ROWS_OF_STEPS:
            assert draft is not None
            timer = _StepTimer(passes, clock)
            _rehearse(draft, example, num_rows, timer, settings.cost_repeats)
            steps.append(
                DraftStepCost(num_rows, example.temperature, statistics.median(timer.step_ms))
            )
    passes.complete()
    return Cost(
        num_threads=num_threads,
        num_context=examples[0].prompt_length,
        target_ms=tuple((rows, statistics.median(ms)) for rows, ms in passes.times_ms.items()),
        draft_steps=tuple(steps),
    )


def _cut(text: TargetText, num_context: int) -> TargetText:
    """Return a text as if its first tokens were the prompt; some are left to be drafted."""
    context = min(num_context, len(text.token_ids) - _STEPS_IN_ROUND)
    return replace(text, prompt_length=max(1, context))


def _rehearse(
    draft: LoadedModel, text: TargetText, num_rows: int, timer: "_StepTimer", repeats: int
) -> None:
    """Let the drafter work until enough steps were timed, each of exactly `num_rows` rows."""
    capacity = len(text.token_ids) + 512
    settings = DraftSettings(
        kv_tokens=2 * capacity,
        lookup=LookupSettings(enabled=False),
        growth=GrowthSettings(
            max_rows_per_session=num_rows,
            min_score=-1e9,
            max_live_nodes=512,  # no step ends for want of room
            prefill_chunk=capacity,
        ),
    )
    grower = assemble(draft, settings).grower
    timer.passes_per_step = grower.passes_per_step
    with Rehearsal(settings, grower, vocab_size=1 << 30) as rehearsal:
        while len(timer.step_ms) < repeats:
            rehearsal.run(
                [text],
                budget=_BUDGET,
                max_depth=_STEPS_IN_ROUND,
                max_steps=_STEPS_IN_ROUND,
                on_step=timer,
            )


class _StepTimer:
    """Times draft steps, with a target pass before the first of each round."""

    def __init__(self, passes: "_TargetPasses", clock: Callable[[], float]) -> None:
        self.step_ms: list[float] = []
        self.passes_per_step = 1
        self._passes = passes
        self._clock = clock

    def __call__(self, number: int, step: Callable[[], bool]) -> bool:
        if number == 0:
            self._passes.run_next()
            return step()
        started = self._clock()
        has_worked = step()
        if has_worked:
            self.step_ms.append((self._clock() - started) * 1e3 / self.passes_per_step)
        return has_worked


@dataclass(slots=True)
class _TargetPasses:
    """Passes of the target over 1, 2, … rows after one text, in turns."""

    target: LoadedModel
    text: TargetText
    settings: EvaluationSettings
    clock: Callable[[], float]
    times_ms: dict[int, list[float]] = field(default_factory=dict)
    _runner: Runner = field(init=False)
    _context_slots: npt.NDArray[np.int64] = field(init=False)
    _row_slots: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Read the text, and run each size once for nothing."""
        context = self.text.token_ids[: self.text.prompt_length]
        largest = max(self.settings.cost_rows)
        runner, slots = make_runner(self.target, len(context) + largest)
        self._context_slots = np.array(slots.allocate(len(context)), dtype=np.int64)
        self._row_slots = slots.allocate(largest)
        runner.forward([prompt_segment(context, self._context_slots.tolist())])
        self._runner = runner
        for num_rows in self.settings.cost_rows:
            self._run(num_rows)
            self.times_ms[num_rows] = []

    def run_next(self) -> None:
        """Time a pass of the size that was timed least often."""
        num_rows = min(self.times_ms, key=lambda rows: len(self.times_ms[rows]))
        started = self.clock()
        self._run(num_rows)
        self.times_ms[num_rows].append((self.clock() - started) * 1e3)

    def complete(self) -> None:
        """Time passes until there are enough of each size."""
        while min(map(len, self.times_ms.values())) < self.settings.cost_repeats:
            self.run_next()

    def _run(self, num_rows: int) -> None:
        first = self.text.prompt_length
        segment = Segment(
            token_ids=[self.text.token_ids[first]] * num_rows,
            positions=range(first, first + num_rows),
            write_slots=self._row_slots[:num_rows],
            context_slots=self._context_slots,
            tree_slots=self._row_slots[:num_rows],
            tree_mask=np.tri(num_rows, dtype=np.bool_),
            output_rows=range(num_rows),
        )
        self._runner.forward([segment]).cpu()
