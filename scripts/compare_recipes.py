"""Trains several drafters side by side on the same batches, to see what each change buys.

    python scripts/compare_recipes.py CORPUS OUT.json --target default --seconds 120 \
        --variant base \
        --variant first:layer_choice=first \
        --variant fast:learning_rate=2e-3 \
        --variant shaped:loss.acceptance=0.7,loss.survival_share=0.5

A variant is a name and settings of `TrainSettings`, with commas between them, that
differ from `--set`'s. The teacher looks at each batch once, for all of them. Without
`--variant` a handful that is worth a look is compared. The table holds, for each
variant, its settings and what it could do on held-out texts by tokens seen.

CORPUS is a folder of texts, as `treedraft distill` leaves it in `work/responses`.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from treedraft.training.corpus import Corpus
from treedraft.training.initial import read_initial, student_columns, student_layers
from treedraft.training.recipe import pass_dtype
from treedraft.training.student import make_student
from treedraft.training.student_trainer import StudentTrainer
from treedraft.training.target import TrainingTarget, load_target
from treedraft.training.teaching import Teaching, causally_attending
from treedraft.training.train_settings import TrainSettings
from treedraft.training.validation import Validation, validate

DEFAULT_VARIANTS = (
    "base:",
    "rate-1e-3:learning_rate=1e-3",
    "rate-3e-3:learning_rate=3e-3",
    "muon:optimiser=muon",
    "first-layers:layer_choice=first",
    "divergence-alone:loss.acceptance=0",
    "survival:loss.survival_share=0.5",
    "hidden:loss.hidden=0.3",
)
# As many looks as say something about the course, the last one included.
LOOKS = 5


@dataclass
class Contestant:
    """A variant in training."""

    name: str
    settings: TrainSettings
    trainer: StudentTrainer
    curve: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""


def parse_variant(text: str, base: dict[str, Any]) -> tuple[str, TrainSettings]:
    """Return the name and the settings of `NAME:SETTING=VALUE,…`."""
    name, _, assignments = text.partition(":")
    return name, TrainSettings(**merge(base, parse_assignments(assignments.split(","))))


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Return nested settings of `a.b=1`; values are JSON or plain text."""
    nested: dict[str, Any] = {}
    for assignment in filter(None, assignments):
        dotted, _, value = assignment.partition("=")
        *groups, last = dotted.strip().split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        try:
            place[last] = json.loads(value)
        except ValueError:
            place[last] = value
    return nested


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return both, the changes winning, group by group."""
    merged = dict(base)
    for key, value in changes.items():
        is_group = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if is_group else value
    return merged


def make_contestant(
    name: str, settings: TrainSettings, target: TrainingTarget, corpus: Corpus
) -> Contestant:
    """Make the student of a variant."""
    initial = read_initial(settings.init, target) if settings.init else None
    layers = student_layers(initial, settings, target)
    draft_token_ids = student_columns(initial, corpus, settings, target)
    student = make_student(
        target.module, layers, draft_token_ids, dtype=pass_dtype(target, settings)
    )
    if initial:
        initial.put_into(student, layers, draft_token_ids)
    trainer = StudentTrainer(student, draft_token_ids, target.module, settings, progress=say)
    return Contestant(name, settings, trainer)


def say(message: str) -> None:
    """Print at once."""
    print(message, flush=True)


def compare(contestants: list[Contestant], teaching: Teaching, seconds: float) -> dict[str, Any]:
    """Train all contestants for a time and return the table."""
    started = time.monotonic()
    num_tokens = num_steps = epoch = looks_done = 0
    share = 0.0
    while share < 1.0:
        for documents in teaching.plan_epoch(epoch):
            share = min(1.0, (time.monotonic() - started) / seconds)
            if share >= 1.0:
                break
            batch = teaching.look_at(documents)
            for contestant in contestants:
                step(contestant, batch, share)
            num_tokens += batch.tokens.num_rows
            num_steps += 1
            if num_steps == 1:  # compilers are done: the time begins here
                synchronise()
                say(f"first step after {time.monotonic() - started:.1f} s")
                started = time.monotonic()
            if share > (looks_done + 1) / LOOKS:
                looks_done += 1
                look(contestants, teaching, num_tokens, num_steps, started)
        epoch += 1
    synchronise()
    look(contestants, teaching, num_tokens, num_steps, started)
    return {
        "num_tokens": num_tokens,
        "num_steps": num_steps,
        "seconds": round(time.monotonic() - started, 1),
        "held_out_rows": sum(batch.tokens.num_rows for batch in teaching.validation),
        "variants": [
            {
                "name": c.name,
                "settings": c.settings.model_dump(mode="json"),
                "failure": c.failure,
                "curve": c.curve,
            }
            for c in contestants
        ],
    }


def step(contestant: Contestant, batch: Any, share: float) -> None:
    """Train one variant on a batch; one that fails drops out and leaves the others alone."""
    if contestant.failure:
        return
    try:
        contestant.trainer.step(batch, share)
    except Exception as error:
        contestant.failure = f"{type(error).__name__}: {error}"
        say(f"{contestant.name} drops out: {contestant.failure}")


def look(
    contestants: list[Contestant],
    teaching: Teaching,
    num_tokens: int,
    num_steps: int,
    started: float,
) -> None:
    """Validate all variants, and print a line for each."""
    seconds = time.monotonic() - started
    say(f"--- {num_tokens / 1e6:.2f} M tokens, {num_steps} steps, {seconds:.0f} s")
    for contestant in contestants:
        if contestant.failure:
            continue
        found: Validation = validate(contestant.trainer, teaching.validation)
        contestant.curve.append(
            {
                "tokens": num_tokens,
                "steps": num_steps,
                "seconds": round(seconds, 1),
                **asdict(found),
            }
        )
        say(f"{contestant.name:24s} {found}")


def synchronise() -> None:
    """Wait for the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Compare and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--set", action="append", default=[], help="SETTING=VALUE, for all")
    parser.add_argument("--variant", action="append", default=[], help="NAME:SETTING=VALUE,…")
    given = parser.parse_args()
    corpus = Corpus.open(given.corpus)
    target = load_target(given.target, dtype=given.dtype, device=given.device, progress=say)
    base = parse_assignments(given.set)
    variants = [parse_variant(text, base) for text in given.variant or DEFAULT_VARIANTS]
    with causally_attending(target.module):
        teaching = Teaching(target, corpus, TrainSettings(**{**base, "epochs": 1}), say)
        contestants = [make_contestant(name, s, target, corpus) for name, s in variants]
        look(contestants, teaching, 0, 0, time.monotonic())
        table = compare(contestants, teaching, given.seconds)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    say(f"table in {given.out}")


if __name__ == "__main__":
    main()
