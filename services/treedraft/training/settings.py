"""Everything that shapes a distillation, in groups of the stages."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from treedraft.core.errors import InvalidRequestError
from treedraft.settings import Frozen
from treedraft.training.evaluation.settings import EvaluationSettings
from treedraft.training.generation import GeneratorSettings
from treedraft.training.prompt_settings import PromptSettings
from treedraft.training.responses import ResponseSettings
from treedraft.training.train_settings import TrainSettings


class DistillSettings(Frozen):
    """From which target to which folder, and how."""

    target: str = Field(
        default="default", min_length=1, description="Folder, .gguf file, hub id or `default`."
    )
    out: Path = Field(
        description="Folder of the drafter; what the stages need lies in `work` below it."
    )
    device: str = Field(
        default="auto", description="Where the target writes and the drafter learns."
    )
    dtype: str = Field(
        default="auto",
        description="Of the target there; `auto` is bfloat16 on CUDA and float32 on a CPU.",
    )
    evaluation_device: str = Field(
        default="cpu",
        description="Where the drafter is judged; times mean something only on the machine that "
        "will serve.",
    )
    seed: int = Field(default=0, ge=0, description="Of prompts, temperatures and answers.")
    prompts: PromptSettings = Field(default_factory=PromptSettings)
    responses: ResponseSettings = Field(default_factory=ResponseSettings)
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)

    @property
    def work(self) -> Path:
        """Folder of the stages."""
        return self.out / "work"


def make_settings(given: Mapping[str, Any], assignments: Sequence[str] = ()) -> DistillSettings:
    """Return settings from values by dotted name.

    Args:
        given: such as {"train.layers": 3}; None leaves the default.
        assignments: `NAME=VALUE`, which win; a value is JSON or else plain text.

    Raises:
        InvalidRequestError: an assignment has no name or value.
        pydantic.ValidationError: a name is none, or a value is out of range.
    """
    values = {name: value for name, value in given.items() if value is not None}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise InvalidRequestError(f"{assignment}: give NAME=VALUE", field="set")
        values[name.strip().lower()] = _parse(text)
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return DistillSettings(**nested)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
