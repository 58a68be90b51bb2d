"""`treedraft generate`: one answer, streamed as text or whole as JSON."""

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from treedraft.bench.answer import Answer, ask
from treedraft.cli import options, terminal
from treedraft.cli.checks import refuse_both
from treedraft.cli.connection import connected, tls_settings
from treedraft.core.generation import ChatMessage, Delta, GenerateQuery
from treedraft.core.sampling import (
    SamplingParameters,
    SpeculationOptions,
    StoppingCriteria,
    Verification,
)
from treedraft.inference.drafters import AUTO, choose_drafter
from treedraft.local_cluster.plan import ClusterPlan


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads it from stdin.")],
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep the k best tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the best tokens up to this mass.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Drop tokens below this share of the best.")] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, tokens that were there become less likely.")
    ] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Taken off once per token.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="Taken off per occurrence.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text; drawn if absent.")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="Text that ends the answer and is not shown; may be given repeatedly."),
    ] = None,
    ignore_eos: Annotated[bool, typer.Option(help="Go on past the end of the answer.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is.")] = False,
    system: Annotated[str, typer.Option(help="System message before the prompt.")] = "",
    no_speculation: Annotated[
        bool, typer.Option("--no-speculation", help="One token per pass.")
    ] = False,
    max_nodes: Annotated[int | None, typer.Option(help="Drafted nodes per pass, at most.")] = None,
    max_depth: Annotated[int | None, typer.Option(help="Depth of a tree, at most.")] = None,
    verification: Annotated[
        Verification,
        typer.Option(
            help="Rule of acceptance; rejection keeps the law, but drafts change the text."
        ),
    ] = Verification.COUPLED,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object. Its token_ids are all that were made, those of a stop "
            "text included; its text ends before that.",
        ),
    ] = False,
    model: Annotated[str, typer.Option(help="Served model to ask, where there are several.")] = "",
    endpoint: options.Endpoint = "",
    target: options.Target = "default",
    draft: options.Draft = AUTO,
    redis: options.Redis = "",
    dtype: options.Dtype = "",
    device: options.Device = "",
    api_key: options.ApiKey = "",
    ca: options.Ca = "",
    cert: options.Cert = "",
    key: options.Key = "",
) -> None:
    """Answer a prompt, with a running cluster (--endpoint) or one of its own."""
    refuse_both(context, endpoint)
    with terminal.errors_shown():
        query = GenerateQuery(
            model=model,
            **_input(sys.stdin.read() if prompt == "-" else prompt, system, raw),
            sampling=SamplingParameters(
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                presence_penalty=presence_penalty,
                frequency_penalty=frequency_penalty,
                seed=seed,
                verification=verification,
            ),
            stopping=StoppingCriteria(
                max_tokens=max_tokens, stop_strings=tuple(stop or ()), ignore_eos=ignore_eos
            ),
            speculation=SpeculationOptions(
                enabled=not no_speculation, max_nodes=max_nodes, max_depth=max_depth
            ),
        )
        tls = tls_settings(ca, cert, key)
    plan = ClusterPlan(
        target=target,
        draft=choose_drafter(draft, target),
        redis=redis,
        dtype=dtype,
        device=device,
        tls=tls,
        api_key=api_key,
    )
    terminal.run(_generate(query, endpoint, plan, as_json))


async def _generate(query: GenerateQuery, endpoint: str, plan: ClusterPlan, as_json: bool) -> None:
    console = terminal.stderr()
    async with connected(endpoint, plan, console) as client:
        answer = await ask(client, query, on_delta=_silent if as_json else _print_delta)
    if as_json:
        print(json.dumps(as_object(answer), ensure_ascii=False))
        return
    print()
    console.print(describe(answer, query.sampling), style="dim")


def as_object(answer: Answer) -> dict[str, Any]:
    """Return what `--json` prints; the names are part of the public interface."""
    started, finished = answer.started, answer.finished
    statistics = finished.statistics
    return {
        "text": answer.text,
        "token_ids": list(answer.token_ids),
        "prompt_token_ids": list(started.prompt_token_ids),
        "finish_reason": finished.reason.value,
        "seed": started.seed,
        "session_id": started.session_id,
        "trace_id": started.trace_id,
        "model": started.model,
        "stats": {
            **{name: getattr(statistics, name) for name in _COUNTS},
            "tokens_per_second": statistics.tokens_per_second,
            "time_to_first_token_ms": finished.time_to_first_token_ms,
            "round_ms": asdict(statistics.round_ms),
        },
    }


_COUNTS = (
    "rounds",
    "tokens_per_round",
    "drafted_nodes",
    "admitted_nodes",
    "accepted_nodes",
    "dropped_nodes",
    "hits",
    "misses",
    "cached_prompt_tokens",
    "preemptions",
)


def describe(answer: Answer, sampling: SamplingParameters) -> str:
    """Return one line on how the answer went; its seed only where that made a difference."""
    statistics = answer.finished.statistics
    parts = [
        f"{len(answer.token_ids)} tokens ({answer.finished.reason.value})",
        f"{statistics.tokens_per_second:.1f} tok/s",
        f"τ {statistics.tokens_per_round:.2f}",
        f"first token after {answer.finished.time_to_first_token_ms:.0f} ms",
    ]
    if sampling.temperature > 0:
        parts.append(f"seed {answer.started.seed}")
    if answer.started.trace_id:
        parts.append(f"treedraft trace {answer.started.trace_id[:8]}")
    return " · ".join(parts)


def _input(prompt: str, system: str, raw: bool) -> dict[str, Any]:
    if raw:
        return {"text": prompt}
    messages = [ChatMessage("system", system)] if system else []
    return {"conversation": (*messages, ChatMessage("user", prompt))}


def _print_delta(delta: Delta) -> None:
    print(delta.text, end="", flush=True)


def _silent(_delta: Delta) -> None:
    """Print nothing."""
