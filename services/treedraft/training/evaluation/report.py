"""What an evaluation found, as values and as JSON.

A report says what was judged, on which texts, where and by which code, so that two
of them can be compared. `report.json` is what others read; nothing in it needs the
picture.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.stamp import Stamp
from treedraft.training.evaluation.agreement import Agreement
from treedraft.training.evaluation.cost import Cost, DraftStepCost, PredictedSpeed
from treedraft.training.evaluation.settings import EvaluationSettings
from treedraft.training.evaluation.tree_length import TreeLength, TreeShape
from treedraft.training.files import replace_text

FORMAT_VERSION = 1
FILE_NAME = "report.json"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that took part.

    `num_parameters` counts what a pass computes with: all but the input embedding.
    `num_head_tokens` are the tokens that it can say.
    """

    name: str
    fingerprint: str
    dtype: str
    device: str
    num_layers: int
    num_parameters: int
    num_head_tokens: int


@dataclass(frozen=True, slots=True)
class RehearsedLength:
    """τ of the drafter's own loop, over fewer texts.

    `has_lookup` says whether lookup drafts beside the model, in the session's own
    text; reports of before knew only the model alone.
    `steps_per_round` are draft steps between two passes; all texts of a
    temperature were drafted for at once, so each step served all of them.
    """

    temperature: float
    budget: int
    max_steps: int
    num_texts: int
    num_rounds: int
    num_tokens: int
    steps_per_round: float
    has_lookup: bool = False

    @property
    def tau(self) -> float:
        """τ: tokens emitted per pass."""
        return self.num_tokens / self.num_rounds if self.num_rounds else 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found.

    Attributes:
        stamp: machine, versions, commit.
        target: whose texts they are.
        drafter: who was judged.
        settings: of the evaluation.
        num_prompts: prompts, each answered at every temperature.
        seconds: what the parts of the evaluation took.
        agreement: by temperature; over all texts and by category.
        lengths: τ by shape and temperature; that of some shapes by category too.
        rehearsed: τ of the drafter's own loop.
        cost: times; None if they were not measured.
        speeds: what follows from τ and the times.
    """

    stamp: Stamp
    target: Subject
    drafter: Subject
    settings: EvaluationSettings
    num_prompts: int
    seconds: Mapping[str, float]
    agreement: tuple[Agreement, ...]
    lengths: tuple[TreeLength, ...]
    rehearsed: tuple[RehearsedLength, ...] = ()
    cost: Cost | None = None
    speeds: tuple[PredictedSpeed, ...] = field(default=())

    def agreement_at(self, temperature: float, category: str = "") -> Agreement:
        """Return the agreement at one temperature; KeyError if there is none."""
        for entry in self.agreement:
            if (entry.temperature, entry.category) == (temperature, category):
                return entry
        raise KeyError((temperature, category))

    def length_of(self, shape: TreeShape, temperature: float, category: str = "") -> TreeLength:
        """Return τ of one shape at one temperature; KeyError if it was not measured."""
        for entry in self.lengths:
            if (entry.shape, entry.temperature, entry.category) == (shape, temperature, category):
                return entry
        raise KeyError((shape, temperature, category))

    def tree(self, budget: int, temperature: float, category: str = "") -> TreeLength:
        """Return τ of the best tree of so many nodes."""
        shape = TreeShape(budget, self.settings.max_depth, self.settings.num_children)
        return self.length_of(shape, temperature, category)

    def best_speed(self, temperature: float) -> PredictedSpeed | None:
        """Return the fastest shape on shared cores."""
        known = [speed for speed in self.speeds if speed.temperature == temperature]
        return max(known, key=lambda speed: speed.on_shared_cores, default=None)


def to_json(report: Report) -> str:
    """Return a report as text; `from_json` gives it back."""
    document = {
        "format_version": FORMAT_VERSION,
        **{name: getattr(report, name) for name in Report.__dataclass_fields__},
        "settings": report.settings.model_dump(mode="json"),
        "lengths": [{**asdict(entry), "tau": round(entry.tau, 4)} for entry in report.lengths],
        "rehearsed": [{**asdict(entry), "tau": round(entry.tau, 4)} for entry in report.rehearsed],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no place in a report")


def from_json(text: str) -> Report:
    """Read a report.

    Raises:
        UnsupportedModelError: reason REPORT_UNREADABLE; it is of another format or broken.
    """
    try:
        document = json.loads(text)
        if document.pop("format_version") != FORMAT_VERSION:
            raise ValueError("another version of the format")
        return _read(document)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UnsupportedModelError(
            f"this is no report of an evaluation: {error}", reason="REPORT_UNREADABLE"
        ) from error


def _read(document: dict[str, Any]) -> Report:
    cost = document["cost"]
    return Report(
        stamp=Stamp(**document["stamp"]),
        target=Subject(**document["target"]),
        drafter=Subject(**document["drafter"]),
        settings=EvaluationSettings(**document["settings"]),
        num_prompts=document["num_prompts"],
        seconds=document["seconds"],
        agreement=tuple(
            Agreement(**{**entry, "acceptance": tuple(entry["acceptance"])})
            for entry in document["agreement"]
        ),
        lengths=tuple(TreeLength(**_with_shape(entry)) for entry in document["lengths"]),
        rehearsed=tuple(
            RehearsedLength(**{key: entry[key] for key in entry if key != "tau"})
            for entry in document["rehearsed"]
        ),
        cost=None
        if cost is None
        else Cost(
            num_threads=cost["num_threads"],
            num_context=cost["num_context"],
            target_ms=tuple((int(rows), float(ms)) for rows, ms in cost["target_ms"]),
            draft_steps=tuple(DraftStepCost(**step) for step in cost["draft_steps"]),
        ),
        speeds=tuple(
            PredictedSpeed(**{**entry, "shape": TreeShape(**entry["shape"])})
            for entry in document["speeds"]
        ),
    )


def _with_shape(entry: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key != "tau"}
    return {**kept, "shape": TreeShape(**entry["shape"])}


def write(report: Report, folder: Path) -> Path:
    """Write `report.json` into a folder and return its path; what was there is replaced."""
    file = folder / FILE_NAME
    replace_text(file, to_json(report))
    return file
