"""`treedraft chat`: a conversation in the terminal, coloured by where tokens came from."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from treedraft.bench.answer import Answer, Asking, ask
from treedraft.cli import options, terminal
from treedraft.cli.chat_input import LineReader, PromptReader, Reader
from treedraft.cli.chat_state import ChatState, Next, run_command
from treedraft.cli.checks import refuse_both
from treedraft.cli.connection import connected, tls_settings
from treedraft.cli.generate import describe
from treedraft.cli.origin import LEGEND, painted
from treedraft.core.errors import TreedraftError
from treedraft.core.generation import Delta
from treedraft.core.sampling import SamplingParameters
from treedraft.inference.drafters import AUTO, choose_drafter
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.settings import TelemetrySettings, cache_dir
from treedraft.telemetry.local_store import store_path, wait_for_trace
from treedraft.telemetry.waterfall import render_trace


def chat(
    context: typer.Context,
    system: Annotated[str, typer.Option(help="System message before the conversation.")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.7,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text; drawn if absent.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    no_speculation: Annotated[
        bool, typer.Option("--no-speculation", help="One token per pass.")
    ] = False,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Keep what is typed in no file.")
    ] = False,
    model: Annotated[str, typer.Option(help="Served model to ask, where there are several.")] = "",
    endpoint: options.Endpoint = "",
    target: options.Target = "default",
    draft: options.Draft = AUTO,
    dtype: options.Dtype = "",
    weights: options.Weights = "",
    device: options.Device = "",
    api_key: options.ApiKey = "",
    ca: options.Ca = "",
    cert: options.Cert = "",
    key: options.Key = "",
) -> None:
    """Talk with a model, at a running cluster (--endpoint) or one of its own."""
    refuse_both(context, endpoint)
    with terminal.errors_shown():
        state = ChatState(
            system=system,
            model=model,
            max_tokens=max_tokens,
            is_speculative=not no_speculation,
            sampling=SamplingParameters(temperature=temperature, seed=seed),
        )
        plan = ClusterPlan(
            target=target,
            draft=choose_drafter(draft, target),
            dtype=dtype,
            weights=weights,
            device=device,
            tls=tls_settings(ca, cert, key),
            api_key=api_key,
        )
    history = None if no_history else cache_dir() / "chat_history"
    terminal.run(_chat(state, endpoint, plan, history_file=history))


async def _chat(
    state: ChatState, endpoint: str, plan: ClusterPlan, *, history_file: Path | None
) -> None:
    notes = terminal.stderr()
    async with connected(endpoint, plan, notes) as client:
        await client.list_models()  # a dead endpoint is told before anything is typed
        is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if is_terminal:
            notes.print(Text.assemble(LEGEND, ("   /help lists commands", "dim")))
        reader: Reader = PromptReader(history_file) if is_terminal else LineReader()
        await converse(client, state, reader, terminal.stdout(), notes)


async def converse(
    client: Asking, state: ChatState, reader: Reader, console: Console, notes: Console
) -> ChatState:
    """Read, do and answer until there is nothing more to read; return how it ended.

    Args:
        client: the coordinator.
        state: how to begin.
        reader: where messages and commands come from.
        console: gets the answers.
        notes: gets everything else.
    """
    while True:
        try:
            line = await reader.read()
        except KeyboardInterrupt:
            notes.print("Ctrl-D leaves", style="dim")
            continue
        if line is None:
            return state
        following = Next.ANSWER if line else Next.READ
        if line.startswith("/"):
            outcome = run_command(state, line)
            state, following = outcome.state, outcome.next
            if outcome.words:
                notes.print(outcome.words, markup=False, style="dim")
        elif line:
            state = state.said("user", line)
        if following is Next.QUIT:
            return state
        if following is Next.SHOW_TRACE:
            await _show_trace(state, console, notes)
        elif following is Next.ANSWER:
            state = await _answer(client, state, console, notes)


async def _answer(client: Asking, state: ChatState, console: Console, notes: Console) -> ChatState:
    """Ask for the next answer and show it as it comes; Ctrl-C keeps what came until then."""
    text: list[str] = []

    def show(delta: Delta) -> None:
        text.append(delta.text)
        console.print(painted(delta), end="", soft_wrap=True)

    asking = asyncio.create_task(ask(client, state.query(), on_delta=show))
    try:
        with _interrupting(asking):
            answer = await asking
    except TreedraftError as error:
        console.print()
        terminal.say_error(error)
        # The question stays where /retry finds it.
        return state.said("assistant", "".join(text)) if text else state
    except asyncio.CancelledError:
        if not asking.cancelled() or ((current := asyncio.current_task()) and current.cancelling()):
            raise
        console.print()
        notes.print("stopped", style="dim")
        return state.said("assistant", "".join(text))
    console.print()
    notes.print(describe(answer, state.sampling), style="dim")
    return replace(state.said("assistant", answer.text), last=answer)


@contextmanager
def _interrupting(task: asyncio.Task[Answer]) -> Iterator[None]:
    """Let Ctrl-C cancel a task, and nothing else, for the time of the context."""
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


async def _show_trace(state: ChatState, console: Console, notes: Console) -> None:
    trace_id = state.last.started.trace_id if state.last else ""
    path = store_path(TelemetrySettings())
    spans = await asyncio.to_thread(wait_for_trace, path, trace_id, timeout_seconds=1.0)
    if spans:
        console.print(render_trace(spans))
    else:
        notes.print(f"trace {trace_id} is not on this machine", style="dim")
