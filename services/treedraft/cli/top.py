"""`treedraft top`: how a running cluster is, refreshed in place, or once for scripts."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from treedraft.cli import options, terminal
from treedraft.cli.connection import tls_settings
from treedraft.cli.up import DEFAULT_PORT
from treedraft.core.errors import TreedraftError
from treedraft.core.generation import ServedModel
from treedraft.core.worker import ClusterDescription, WorkerReport, WorkerRole
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.settings import TlsSettings

_BAR_CELLS = 8


def top(
    endpoint: options.RunningEndpoint = f"127.0.0.1:{DEFAULT_PORT}",
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a look, for scripts.")
    ] = False,
    api_key: options.ApiKey = "",
    ca: options.Ca = "",
    cert: options.Cert = "",
    key: options.Key = "",
) -> None:
    """Watch a running cluster: sessions, workers, KV, tokens a round, tokens a second."""
    with terminal.errors_shown():
        tls = tls_settings(ca, cert, key)
    terminal.run(_top(endpoint, tls, api_key, interval=interval, once=once, as_json=as_json))


async def _top(
    endpoint: str, tls: TlsSettings, api_key: str, *, interval: float, once: bool, as_json: bool
) -> None:
    client = CoordinatorClient(endpoint, tls=tls, api_key=api_key)
    try:
        models, cluster = await _look(client)  # an endpoint that is dead from the start is an error
        if once or as_json:
            _print(endpoint, models, cluster, as_json=as_json)
        if once:
            return
        if as_json:
            await _repeat(client, interval, lambda *seen: _print(endpoint, *seen, as_json=True))
            return
        view = screen(endpoint, models, cluster)
        with Live(view, console=terminal.stdout(), screen=True, auto_refresh=False) as live:
            await _repeat(
                client,
                interval,
                lambda *seen: live.update(screen(endpoint, *seen), refresh=True),
                lambda error: live.update(_lost(endpoint, error), refresh=True),
            )
    finally:
        await client.close()


async def _look(client: CoordinatorClient) -> tuple[list[ServedModel], ClusterDescription]:
    return await client.list_models(), await client.describe_cluster()


async def _repeat(
    client: CoordinatorClient,
    interval: float,
    show: Callable[[list[ServedModel], ClusterDescription], None],
    show_error: Callable[[TreedraftError], None] | None = None,
) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            show(*await _look(client))
        except TreedraftError as error:
            if show_error is None:
                raise
            show_error(error)  # it may come back


def _print(
    endpoint: str, models: list[ServedModel], cluster: ClusterDescription, *, as_json: bool
) -> None:
    if as_json:
        print(json.dumps(as_object(endpoint, models, cluster)), flush=True)
    else:
        terminal.stdout().print(screen(endpoint, models, cluster))


def as_object(
    endpoint: str, models: list[ServedModel], cluster: ClusterDescription
) -> dict[str, Any]:
    """Return what `--json` prints; the names are part of the public interface."""
    return {
        "endpoint": endpoint,
        "time": round(time.time(), 3),
        "sessions": cluster.num_sessions,
        "tokens_per_second": _tokens_per_second(cluster),
        "tokens_per_round": tokens_per_round(cluster),
        "models": [
            {
                "model": model.model,
                "context_length": model.context_length,
                "targets": model.num_targets,
                "drafters": model.num_drafters,
            }
            for model in models
        ],
        "workers": [
            {
                "worker_id": worker.worker_id,
                "role": worker.role.value,
                "state": _state(report),
                "endpoint": worker.endpoint,
                "model": worker.model,
                "sessions": report.num_sessions,
                "waiting": report.num_waiting,
                "free_kv_blocks": report.free_kv_blocks,
                "total_kv_blocks": report.total_kv_blocks,
                "busy_share": report.signals.utilisation,
                "tokens_per_second": report.signals.tokens_per_second,
                "tokens_per_round": report.signals.tokens_per_round,
                "late_draft_share": report.signals.late_draft_share,
                "first_token_p95_seconds": report.signals.time_to_first_token_seconds,
                "inter_token_p95_seconds": report.signals.inter_token_seconds,
            }
            for worker, report in cluster.workers
        ],
    }


def screen(endpoint: str, models: list[ServedModel], cluster: ClusterDescription) -> RenderableType:
    """Return the cluster as a person looks at it."""
    served = ", ".join(model.model for model in models) or "no model is served yet"
    tau = tokens_per_round(cluster)
    head = Text.assemble(
        ("treedraft ", "bold"),
        f"{endpoint}  {served}\n",
        f"{cluster.num_sessions} sessions · {_tokens_per_second(cluster):.1f} tok/s · ",
        f"τ {tau:.2f} ({tau - 1:.2f} drafted tokens accepted a pass)"
        if tau
        else "no rounds lately",
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("worker")
    table.add_column("role")
    table.add_column("model")
    for heading in ("sessions", "waiting", "KV", "busy", "tok/s", "τ", "late", "first token p95"):
        table.add_column(heading, justify="right", no_wrap=True)
    for worker, report in cluster.workers:
        table.add_row(
            worker.worker_id,
            worker.role.value + (" (draining)" if report.is_draining else ""),
            worker.model or "lookup",
            str(report.num_sessions),
            str(report.num_waiting),
            *_measured(worker.role, report),
        )
    note = Text("of the last seconds, as workers report them; Ctrl-C leaves", style="dim")
    return Group(head, Text(), table, Text(), note)


def _measured(role: WorkerRole, report: WorkerReport) -> tuple[Text | str, ...]:
    signals = report.signals
    total = report.total_kv_blocks
    kv = _bar(1 - report.free_kv_blocks / total) if total else ""
    busy = _bar(signals.utilisation)
    if role is WorkerRole.DRAFT:
        return kv, busy, "", "", "", ""
    wait = signals.time_to_first_token_seconds
    return (
        kv,
        busy,
        f"{signals.tokens_per_second:.1f}",
        f"{signals.tokens_per_round:.2f}" if signals.tokens_per_round else "",
        f"{signals.late_draft_share:.0%}",
        f"{wait * 1000:.0f} ms" if wait else "",
    )


def _bar(share: float) -> Text:
    full = round(min(max(share, 0.0), 1.0) * _BAR_CELLS)
    style = "red" if share > 0.95 else "yellow" if share > 0.8 else "green"
    return Text.assemble(
        ("━" * full, style), ("━" * (_BAR_CELLS - full), "bright_black"), f" {share:>4.0%}"
    )


def _lost(endpoint: str, error: TreedraftError) -> RenderableType:
    return Text.assemble(
        ("treedraft ", "bold"),
        f"{endpoint}\n\n",
        (f"{error.message} ({error.reason})", "red"),
        "\n\nlooking again; Ctrl-C leaves",
    )


def _state(report: WorkerReport) -> str:
    return "draining" if report.is_draining else "ready"


def _tokens_per_second(cluster: ClusterDescription) -> float:
    return sum(report.signals.tokens_per_second for _, report in _targets(cluster))


def tokens_per_round(cluster: ClusterDescription) -> float:
    """Return τ over all targets, each counted by the tokens that it makes; 0 if none makes any."""
    signals = [report.signals for _, report in _targets(cluster)]
    total = sum(one.tokens_per_second for one in signals)
    return (
        sum(one.tokens_per_round * one.tokens_per_second for one in signals) / total
        if total
        else 0.0
    )


def _targets(cluster: ClusterDescription) -> list[tuple[Any, WorkerReport]]:
    return [pair for pair in cluster.workers if pair[0].role is WorkerRole.TARGET]
