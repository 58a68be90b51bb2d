"""What a tuning run found, and what follows from it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from treedraft.inference.stamp import Stamp
from treedraft.training.evaluation.tree_length import TreeShape


@dataclass(frozen=True, slots=True)
class Prediction:
    """One shape with one drafter, by replay of known texts and measured times.

    `speed` is S over the same engine without speculation.
    """

    shape: TreeShape
    tau: float
    speed: float


@dataclass(frozen=True, slots=True)
class DrafterFigures:
    """A drafter: how large, how often right, how dear, and what its shapes promise.

    Attributes:
        draft: its source; empty is lookup.
        name: for people.
        num_parameters: that a pass computes with; 0 for lookup.
        acceptance: share of the text's tokens among the best 1, 2, … guesses;
            empty for lookup, which often has none.
        ratio: c, a draft step of 1 row as a share of a target pass; 0 for lookup.
        predictions: fastest first.
        error: why it cannot be used, in words; empty if it can.
    """

    draft: str
    name: str
    num_parameters: int = 0
    acceptance: tuple[float, ...] = ()
    ratio: float = 0.0
    predictions: tuple[Prediction, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A real run of one setting, through processes, beside the plain engine.

    `shape` is None for the settings that a drafter comes with. The two engines
    are one, asked with and without speculation in turns.
    """

    draft: str
    shape: TreeShape | None
    environment: Mapping[str, str]
    plain_tokens_per_second: float
    tokens_per_second: float
    tau: float
    num_texts: int
    num_equal: int

    @property
    def speed(self) -> float:
        """S: the speed over that without speculation."""
        return self.tokens_per_second / self.plain_tokens_per_second

    @property
    def is_exact(self) -> bool:
        """Whether all texts were the same as without speculation."""
        return self.num_equal == self.num_texts


@dataclass(frozen=True, slots=True)
class TuneResult:
    """A whole run.

    `source`, `dtype` and `device` are what was asked for; an empty device leaves it to
    the services. `is_sharing` says that target and drafter compute on the same cores, or the
    same accelerator, so that drafting costs the target's time.
    """

    stamp: Stamp
    target: str
    temperature: float
    num_prompts: int
    num_threads: int
    is_sharing: bool
    target_ms: tuple[tuple[int, float], ...]
    drafters: tuple[DrafterFigures, ...]
    confirmations: tuple[Confirmation, ...]
    source: str = "default"
    dtype: str = "float32"
    device: str = ""

    def drafter(self, draft: str) -> DrafterFigures:
        """Return the figures of a drafter by its source."""
        return next(entry for entry in self.drafters if entry.draft == draft)

    @property
    def best(self) -> Confirmation | None:
        """Return the fastest setting that was run and kept every text; None without any."""
        exact = [entry for entry in self.confirmations if entry.is_exact]
        return max(exact, key=lambda entry: entry.speed, default=None)


def settings_of(shape: TreeShape, *, is_sharing: bool, has_model: bool) -> dict[str, str]:
    """Return the environment variables that make services use a shape.

    A drafter on cores of its own grows on while a pass is under way, so its
    tree reaches to the end of the next one.
    """
    depth = shape.depth if is_sharing else min(64, 2 * shape.depth + 1)
    environment = {
        "TREEDRAFT_TARGET__BUDGET__MAX_NODES": str(shape.budget),
        "TREEDRAFT_TARGET__BUDGET__MAX_DEPTH": str(shape.depth),
        "TREEDRAFT_DRAFT__GROWTH__MAX_DEPTH": str(depth),
    }
    if has_model:
        environment["TREEDRAFT_DRAFT__GROWTH__NUM_CHILDREN"] = str(shape.num_children)
    return environment


def to_json(result: TuneResult) -> str:
    """Return all of it as text."""
    best = result.best
    document = {
        **asdict(result),
        "confirmations": [
            {**asdict(entry), "speed": entry.speed} for entry in result.confirmations
        ],
        "recommended": best and {"draft": best.draft, "environment": dict(best.environment)},
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
