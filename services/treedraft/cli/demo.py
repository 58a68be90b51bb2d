"""`treedraft demo`: a real model served by three processes, with and without speculation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from treedraft.bench.answer import Answer, ask
from treedraft.cli import options, terminal
from treedraft.cli.connection import started
from treedraft.cli.origin import painted
from treedraft.core.generation import ChatMessage, Delta, GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.session import SessionStatistics
from treedraft.inference.drafters import AUTO, choose_drafter, describe_drafter
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.telemetry.names import ROUND_PARTS

PROMPTS = {
    "prose": "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
    "code": "Write a Python class for a bank account with deposit and withdraw methods.",
    "question": "Why do leaves change colour in autumn?",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same prompt answered without and with speculation."""

    kind: str
    plain: Answer
    speculative: Answer

    @property
    def is_identical(self) -> bool:
        """Whether both said the same, token for token."""
        return self.plain.token_ids == self.speculative.token_ids

    @property
    def ratio(self) -> float:
        """Decoding speed with speculation over that without."""
        plain = self.plain.finished.statistics.tokens_per_second
        return self.speculative.finished.statistics.tokens_per_second / plain if plain else 0.0


def demo(
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens per answer.")] = 96,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Key of the noise, for temperatures above 0.")] = 7,
    target: options.Target = "default",
    draft: options.Draft = AUTO,
    dtype: options.Dtype = "",
    weights: options.Weights = "",
    device: options.Device = "",
) -> None:
    """Serve a model, answer three prompts without and with speculation, compare."""
    drafter = choose_drafter(draft, target)
    plan = ClusterPlan(target=target, draft=drafter, dtype=dtype, weights=weights, device=device)
    with terminal.errors_shown():
        query = GenerateQuery(
            sampling=SamplingParameters(temperature=temperature, seed=seed),
            stopping=StoppingCriteria(max_tokens=max_tokens),
        )
    if not all(comparison.is_identical for comparison in terminal.run(_demo(plan, query))):
        raise typer.Exit(1)


async def _demo(plan: ClusterPlan, query: GenerateQuery) -> list[Comparison]:
    console = terminal.stdout()
    async with started(plan, terminal.stderr()) as cluster:
        names = ", ".join(
            f"{name} (process {process.process_id}, {process.endpoint})"
            for name, process in cluster.processes.items()
        )
        console.print(Text(f"serving: {names}; {describe_drafter(plan.draft)}", style="dim"))
        client = cluster.connect()
        try:
            comparisons = [
                await _compare(console, client, query, kind, prompt)
                for kind, prompt in PROMPTS.items()
            ]
        finally:
            await client.close()
    console.print()
    console.print(speed_table(comparisons))
    console.print()
    console.print(time_table(comparisons))
    if trace_id := comparisons[-1].speculative.started.trace_id:
        console.print(f"\nround by round: .venv/bin/treedraft trace {trace_id[:8]}")
    return comparisons


async def _compare(
    console: Console, client: CoordinatorClient, query: GenerateQuery, kind: str, prompt: str
) -> Comparison:
    console.print(f"\n[bold]{kind}[/bold]: {prompt}")
    answers = []
    for is_enabled in (False, True):
        words = (
            "with speculation; green: from the draft model, cyan: from lookup"
            if is_enabled
            else "no speculation"
        )
        console.print(Text(f"── {words}", style="dim"))
        answers.append(
            await ask(
                client,
                GenerateQuery(
                    conversation=(ChatMessage("user", prompt),),
                    sampling=query.sampling,
                    stopping=query.stopping,
                    speculation=SpeculationOptions(enabled=is_enabled),
                    watch_rounds=True,  # for the colours
                ),
                on_delta=lambda delta: _show(console, delta),
            )
        )
        console.print()
    return Comparison(kind, *answers)


def _show(console: Console, delta: Delta) -> None:
    console.print(painted(delta), end="", soft_wrap=True)


def speed_table(comparisons: Sequence[Comparison]) -> Table:
    """Return speed, τ, hit rate and whether the texts are the same."""
    table = Table(title="speed, tok/s", title_justify="left")
    table.add_column("prompt")
    for column in ("tokens", "plain", "speculative", "ratio", "τ", "hit rate"):
        table.add_column(column, justify="right")
    table.add_column("identical")
    for comparison in comparisons:
        with_it = comparison.speculative.finished.statistics
        table.add_row(
            comparison.kind,
            str(len(comparison.speculative.token_ids)),
            f"{comparison.plain.finished.statistics.tokens_per_second:.1f}",
            f"{with_it.tokens_per_second:.1f}",
            f"{comparison.ratio:.2f}",
            f"{with_it.tokens_per_round:.2f}",
            f"{with_it.hits / max(1, with_it.hits + with_it.misses):.0%}",
            describe_identity(comparison.plain.token_ids, comparison.speculative.token_ids),
        )
    is_identical = all(comparison.is_identical for comparison in comparisons)
    table.caption = f"identical: {'yes' if is_identical else 'no'}"
    table.caption_justify = "left"
    return table


def describe_identity(first: Sequence[int], second: Sequence[int]) -> str:
    """Return `yes`, or from which token on two texts differ."""
    if first == second:
        return "yes"
    pairs = enumerate(zip(first, second, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
    return f"no, from token {place} on"


def time_table(comparisons: Sequence[Comparison]) -> Table:
    """Return where the time of a round went, in milliseconds, as means over all rounds."""
    table = Table(title="where the time of a round went, ms", title_justify="left")
    table.add_column("")
    for part in (*ROUND_PARTS, "rounds"):
        table.add_column(part, justify="right")
    rows = {
        "plain": [comparison.plain.finished.statistics for comparison in comparisons],
        "speculative": [comparison.speculative.finished.statistics for comparison in comparisons],
    }
    for name, statistics in rows.items():
        means = [f"{_mean_part(statistics, part):.2f}" for part in ROUND_PARTS]
        table.add_row(name, *means, str(sum(one.rounds for one in statistics)))
    table.caption = "draft and wire run beside the others, which follow each other"
    table.caption_justify = "left"
    return table


def _mean_part(statistics: Sequence[SessionStatistics], part: str) -> float:
    num_rounds = sum(one.rounds for one in statistics)
    total = sum(getattr(one.round_ms, part) * one.rounds for one in statistics)
    return float(total / num_rounds) if num_rounds else 0.0
