"""A bench result as JSON, as a Markdown table, and as a part of a document.

The table in README is written by `treedraft bench --update-readme` between two
marks and by nothing else, so every number there comes from a run and says
which.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path

from treedraft.bench.plan import (
    PLAIN,
    SPECULATIVE,
    TRANSFORMERS,
    WITHOUT_RECENT_TRAFFIC,
    BenchPlan,
)
from treedraft.bench.result import BenchResult, Check
from treedraft.core.errors import InvalidRequestError
from treedraft.inference.drafters import describe_drafter

BEGIN_MARK = "<!-- bench:begin -->"
END_MARK = "<!-- bench:end -->"

_COLUMNS = (
    "requests at once",
    "transformers tok/s",
    "treedraft, plain tok/s",
    "treedraft, speculative tok/s",
    "S",
    "τ",
    "hit rate",
    "first token, plain",
    "first token, speculative",
)


def to_json(result: BenchResult) -> str:
    """Return all of it: stamp, plan, check, every sample, and the table."""
    return json.dumps({**asdict(result), "table": markdown(result)}, indent=2, ensure_ascii=False)


def markdown(result: BenchResult) -> str:
    """Return the table with the conditions it was made under."""
    lines = [_row(_COLUMNS), _row(["---:"] * len(_COLUMNS))]
    lines += [_row(_cells(result, number)) for number in result.plan.concurrencies]
    return "\n".join([*lines, "", _conditions(result)])


Marks = tuple[str, str]
MARKS: Marks = (BEGIN_MARK, END_MARK)


def check_writable(json_file: Path | None, document: Path | None, *, marks: Marks = MARKS) -> None:
    """Raise InvalidRequestError unless the results can be kept where they are wanted.

    Called before a run, which is long. Reasons: NO_FOLDER, NO_MARKS.
    """
    if json_file is not None and not json_file.resolve().parent.is_dir():
        raise InvalidRequestError(
            f"there is no folder {json_file.resolve().parent}", field="json", reason="NO_FOLDER"
        )
    if document is not None:
        _read_document(document, marks)


def update_document(path: Path, text: str, *, marks: Marks = MARKS) -> None:
    """Replace what is between the two marks of a document.

    Raises:
        InvalidRequestError: reason NO_MARKS, the document has no such place.
    """
    document = _read_document(path, marks)
    changed = _place(marks).sub(lambda match: f"{match[1]}{text}\n{match[2]}", document)
    path.write_text(changed, encoding="utf-8")


def _read_document(path: Path, marks: Marks) -> str:
    document = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not _place(marks).search(document):
        raise InvalidRequestError(
            f"{path} has no {marks[0]} … {marks[1]}", field="path", reason="NO_MARKS"
        )
    return document


def _place(marks: Marks) -> re.Pattern[str]:
    begin, end = map(re.escape, marks)
    return re.compile(f"({begin}\n).*?({end})", re.DOTALL)


def _cells(result: BenchResult, concurrency: int) -> list[str]:
    speeds = [_speed(result, name, concurrency) for name in (TRANSFORMERS, PLAIN, SPECULATIVE)]
    rounds = result.mean(SPECULATIVE, concurrency, "tokens_per_round")
    hit_rate = result.mean(SPECULATIVE, concurrency, "hit_rate")
    first = [result.mean(name, concurrency, "first_token_ms") for name in (PLAIN, SPECULATIVE)]
    return [
        str(concurrency),
        *speeds,
        f"{result.speed_up(concurrency):.2f}",
        "" if rounds is None else f"{rounds:.2f}",
        "" if hit_rate is None else f"{hit_rate:.0%}",
        *("" if value is None else f"{value:.0f} ms" for value in first),
    ]


def _speed(result: BenchResult, system: str, concurrency: int) -> str:
    if not result.of(system, concurrency):
        return ""
    low, high = result.spread(system, concurrency)
    return f"{result.speed(system, concurrency):.1f} ({low:.1f}-{high:.1f})"


def _conditions(result: BenchResult) -> str:
    stamp, plan, check = result.stamp, result.plan, result.check
    drafts = describe_drafter(plan.draft)
    versions = ", ".join(f"{name} {version}" for name, version in stamp.packages.items())
    return (
        f"Median of {plan.num_repeats} (slowest-fastest); greedy, {plan.num_tokens} tokens each, "
        f"prompts included in the time; model {plan.target}, {drafts}{_recent_traffic(plan)}, "
        f"{plan.dtype}{_weights(plan)}, "
        f"{result.num_threads} threads. The same text with speculation as without: "
        f"{check.speculative_equals_plain} of {check.num_prompts}{_reference(check)}. "
        f"{stamp.machine}, "
        f"load {stamp.load_before:.1f} before the run; "
        f"Python {stamp.python}, {versions}; commit {stamp.commit or 'unknown'}, {stamp.time[:10]}."
    )


def _reference(check: Check) -> str:
    if check.plain_equals_transformers is None:
        return ""
    same = f"{check.plain_equals_transformers} of {check.num_prompts}"
    return f"; as transformers' `generate`: {same}"


def _weights(plan: BenchPlan) -> str:
    return f" with weights in {plan.weights}" if plan.weights else ""


def _recent_traffic(plan: BenchPlan) -> str:
    is_off = WITHOUT_RECENT_TRAFFIC.items() <= plan.settings.items()
    return " without recent traffic (every repeat asks the same)" if is_off else ""


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
