"""Judges a drafter by its files, and leaves the report beside it.

`treedraft judge` and the last stage of distillation are this and nothing else.
The target computes in float32, whose texts are those of the golden tests; the
drafter in what it is served in.
"""

from collections.abc import Sequence
from pathlib import Path

from treedraft.core.errors import UnavailableError
from treedraft.inference.downloads import Progress
from treedraft.inference.drafting_model import load_drafting_model
from treedraft.inference.models import load_model
from treedraft.inference.weights import be_silent
from treedraft.training.evaluation import picture, report
from treedraft.training.evaluation.evaluate import evaluate
from treedraft.training.evaluation.held_out import HeldOutPrompt
from treedraft.training.evaluation.report import Report
from treedraft.training.evaluation.settings import EvaluationSettings


def judge_and_write(
    target: str,
    draft: str | Path,
    *,
    device: str = "cpu",
    prompts: Sequence[HeldOutPrompt] = (),
    settings: EvaluationSettings | None = None,
    out: Path | None = None,
    cache: Path | None = None,
    progress: Progress = be_silent,
) -> Report:
    """Load both models, evaluate, write `report.json` and draw `report.svg`.

    Args:
        target: source of the model that verifies.
        draft: source of the drafter.
        device: of both.
        prompts: what to answer; the held-out ones by default.
        settings: what to look at.
        out: folder that gets the report, made if it is not there; None writes nothing.
        cache: folder that keeps the target's texts for the next time.
        progress: told in plain words how far it is.

    Raises:
        TreedraftError: a model cannot be loaded, or the two do not belong together.
    """
    found = evaluate(
        load_model(target, dtype="float32", device=device, progress=progress),
        load_drafting_model(draft, device=device, progress=progress),
        prompts,
        settings,
        progress,
        cache=cache,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        report.write(found, out)
        try:
            picture.draw(found, out / picture.FILE_NAME)
        except UnavailableError as error:  # matplotlib is an extra; the figures are there
            progress(error.message)
    return found
