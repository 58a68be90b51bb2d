"""Measure anew what `treedraft simulate` takes passes and draft steps to cost on this machine.

A report of `treedraft judge` tells two things that the simulation wants: what
trees bring, which follows from the models and the texts alone, and what passes
cost, which follows from the machine and the engine. When the engine gets faster
only the second has changed. So this times the passes as a judge does, over more
rows, since a step that carries a chunk of a prompt has more than a tree, and
writes them into a copy of the report with a stamp of their own.

    python -m scripts.service_times --judged REPORT --out TIMES
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from treedraft.inference.drafters import choose_drafter
from treedraft.inference.drafting_model import load_drafting_model
from treedraft.inference.models import load_model
from treedraft.inference.stamp import take_stamp
from treedraft.training.evaluation.cost import Cost, measure_cost
from treedraft.training.evaluation.held_out import held_out_prompts
from treedraft.training.evaluation.settings import EvaluationSettings
from treedraft.training.evaluation.texts import target_texts

_NUM_PROMPTS = 4
# Up to what a step of the target carries: trees, or a chunk of a prompt beside sessions.
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96)
_KEPT = ("target", "drafter", "num_prompts")


def measure() -> tuple[Cost, str]:
    """Return the costs of the shipped pair, and the name of its drafter."""
    settings = EvaluationSettings(temperatures=(0.0, 0.7), max_tokens=256, cost_rows=_ROWS)
    target = load_model("default", dtype="float32", device="cpu")
    draft = load_drafting_model(choose_drafter("auto", "default"), device="cpu")
    texts = target_texts(target, held_out_prompts()[:_NUM_PROMPTS], settings, lambda _: None)
    cost = measure_cost(target, draft, texts, settings, num_threads=torch.get_num_threads())
    return cost, draft.name


def main() -> None:
    """Measure, and write the copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judged", type=Path, required=True, help="report of `treedraft judge`")
    parser.add_argument("--out", type=Path, required=True, help="file that gets the times")
    arguments = parser.parse_args()
    judged = json.loads(arguments.judged.read_text())
    stamp = take_stamp()
    cost, name = measure()
    print(*cost.target_ms, *map(asdict, cost.draft_steps), sep="\n")
    if name != judged["drafter"]["name"]:
        raise SystemExit(f"the report is of {judged['drafter']['name']}, not of {name}")
    found = {
        "format_version": judged["format_version"],
        "stamp": asdict(stamp),
        "lengths_stamp": judged.get("lengths_stamp", judged["stamp"]),
        **{name: judged[name] for name in _KEPT if name in judged},
        "cost": asdict(cost),
        "lengths": [one for one in judged["lengths"] if not one["category"]],
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
