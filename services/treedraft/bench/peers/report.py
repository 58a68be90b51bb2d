"""A comparison as JSON, as a table in Markdown, and as a page that says how to repeat it."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from treedraft.bench.peers.result import Outcome, PeersResult
from treedraft.inference.drafters import describe_drafter

BEGIN_MARK = "<!-- peers:begin -->"
END_MARK = "<!-- peers:end -->"
COLUMNS = ("system", "precision", "mode", "tok/s", "× plain treedraft", "same text", "note")


def to_json(result: PeersResult) -> str:
    """Return all of it: stamp, plan, every reply, and the table."""
    return json.dumps({**asdict(result), "table": table(result)}, indent=1, ensure_ascii=False)


def rows(result: PeersResult) -> list[tuple[str, ...]]:
    """Return the cells of the table, failures at the end of it."""
    measured = [outcome for outcome in result.outcomes if outcome.replies]
    failed = [outcome for outcome in result.outcomes if not outcome.replies]
    return [_cells(result, outcome) for outcome in measured + failed]


def table(result: PeersResult) -> str:
    """Return the table in Markdown."""
    aligned = [":--", ":--", ":--", "--:", "--:", "--:", ":--"]
    return "\n".join(_line(cells) for cells in (COLUMNS, aligned, *rows(result)))


def best(result: PeersResult) -> str:
    """Return each system's fastest row as a list, with its distance from the fastest of all."""
    fastest = result.best()
    return "\n".join(
        f"- {one.row.system}: {one.speed:.1f} tok/s ({one.row.precision}, {one.row.mode}), "
        f"{one.speed / fastest[0].speed:.2f} of the fastest"
        for one in fastest
    )


def page(result: PeersResult, command: str, picture: str) -> str:
    """Return what stands between the marks of a document.

    Args:
        result: what was measured.
        command: that repeats it.
        picture: the drawing's path from the document, empty without one.
    """
    parts = [
        table(result),
        "Each at its best:",
        best(result),
        *([f"![Speeds, and S against τ]({picture})"] if picture else []),
        conditions(result),
        f"To repeat it:\n\n```sh\n{command}\n```",
    ]
    return "\n\n".join(parts)


def conditions(result: PeersResult) -> str:
    """Return what the numbers depend on."""
    stamp, plan = result.stamp, result.plan
    num_repeats = max(len(outcome.replies) for outcome in result.outcomes)
    reference = result.reference()
    who = f"{reference.row.system}, {reference.row.precision}" if reference else "nobody"
    packages = {**stamp.packages, **result.packages}
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    return (
        f"Tokens a second, prompts included: median of {num_repeats} repeats "
        f"(slowest-fastest), each of {plan.num_prompts} prompt(s), kinds in turns, "
        f"{plan.num_tokens} tokens each, greedy, one stream, {result.num_threads} threads, "
        f"all systems loaded and measured in turns. Same text: tokens before the first that "
        f"differs from the plain text of {who}, summed over all prompts. S is the speed over the "
        f"same system's plain decoding, τ the tokens per pass of the target; S ≤ τ. "
        f"Model {plan.target}; treedraft: {describe_drafter(plan.draft)}; assisted: the same "
        f"drafter, its head widened to all ids. {stamp.machine}, load {stamp.load_before:.1f} "
        f"before the run; Python {stamp.python}, {versions}; "
        f"commit {stamp.commit or 'unknown'}, {stamp.time[:10]}."
    )


def _cells(result: PeersResult, outcome: Outcome) -> tuple[str, ...]:
    row = outcome.row
    names = (row.system, row.precision, row.mode)
    if not outcome.replies:
        return (*names, "–", "–", "–", f"not measured: {outcome.failure}")
    speeds, ratio, same = outcome.speeds, result.ratio(outcome), result.num_same(outcome)
    num_tokens = sum(map(len, outcome.texts))
    return (
        *names,
        f"{outcome.speed:.1f} ({min(speeds):.1f}-{max(speeds):.1f})",
        "–" if ratio is None else f"{ratio:.2f}",
        "–" if same is None else f"{same}/{num_tokens}",
        "; ".join(_notes(result, outcome)),
    )


def _notes(result: PeersResult, outcome: Outcome) -> list[str]:
    speed_up, rounds = result.speed_up(outcome), outcome.tokens_per_pass
    notes = [] if speed_up is None else [f"S {speed_up:.2f}"]
    if rounds is not None and not outcome.row.is_plain:
        notes.append(f"τ {rounds:.2f}")
    return [*notes, *([outcome.row.note] if outcome.row.note else [])]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
