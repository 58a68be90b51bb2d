"""Commands that look at something: `models`, `trace`, `fetch`, `version`."""

import platform
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from treedraft import __version__
from treedraft.cli import options, terminal
from treedraft.cli.connection import tls_settings
from treedraft.cli.up import DEFAULT_PORT
from treedraft.core.generation import ServedModel
from treedraft.core.worker import ClusterDescription
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.settings import TelemetrySettings, TlsSettings
from treedraft.telemetry.local_store import load_trace, recent_traces, store_path
from treedraft.telemetry.trace_page import trace_page
from treedraft.telemetry.waterfall import render_trace

_SHOWN_PACKAGES = ("torch", "transformers", "grpcio", "protobuf", "tokenizers", "redis")


def models(
    endpoint: options.RunningEndpoint = f"127.0.0.1:{DEFAULT_PORT}",
    api_key: options.ApiKey = "",
    ca: options.Ca = "",
    cert: options.Cert = "",
    key: options.Key = "",
) -> None:
    """List the models that a coordinator serves, and its workers."""
    with terminal.errors_shown():
        tls = tls_settings(ca, cert, key)
    served, cluster = terminal.run(_look(endpoint, tls, api_key))
    console = terminal.stdout()
    table = Table("model", "context", "targets", "drafters", box=None, padding=(0, 2, 0, 0))
    for model in served:
        numbers = (model.context_length, model.num_targets, model.num_drafters)
        table.add_row(model.model, *(str(number) for number in numbers))
    console.print(table)
    console.print()
    console.print(_worker_table(cluster))


async def _look(
    endpoint: str, tls: TlsSettings, api_key: str
) -> tuple[list[ServedModel], ClusterDescription]:
    client = CoordinatorClient(endpoint, tls=tls, api_key=api_key)
    try:
        return await client.list_models(), await client.describe_cluster()
    finally:
        await client.close()


def _worker_table(cluster: ClusterDescription) -> Table:
    columns = ("worker", "role", "endpoint", "model", "sessions", "waiting", "free KV")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for registration, report in cluster.workers:
        table.add_row(
            registration.worker_id,
            registration.role.value + (" (draining)" if report.is_draining else ""),
            registration.endpoint,
            registration.model or "lookup",
            str(report.num_sessions),
            str(report.num_waiting),
            f"{report.free_kv_blocks}/{report.total_kv_blocks}" if report.total_kv_blocks else "",
        )
    return table


def trace(
    trace_id: Annotated[
        str, typer.Argument(help="Trace id or its beginning; without one, recent traces.")
    ] = "",
    rows: Annotated[int, typer.Option(min=2, help="Rounds to draw; the middle is folded.")] = 12,
    html: Annotated[
        Path | None,
        typer.Option(help="Write the trace into this file, a page that needs nothing else."),
    ] = None,
    store: Annotated[str, typer.Option(help="File of the local span store.")] = "",
) -> None:
    """Draw where the time of a request went, over all services."""
    path = store_path(TelemetrySettings(store_path=store))
    console = terminal.stdout()
    with terminal.errors_shown():
        if not trace_id:
            if html is not None:
                raise typer.BadParameter("--html draws one trace; give its id")
            console.print(_recent(path))
            return
        spans = load_trace(path, trace_id)
        if not spans:
            raise terminal.failure(
                f"no trace {trace_id} in {path} (`treedraft trace` lists what is there)"
            )
        if html is None:
            console.print(render_trace(spans, max_rows=rows))
            return
        try:
            html.write_text(trace_page(spans), encoding="utf-8")
        except OSError as error:
            raise terminal.failure(f"cannot write {html}: {error.strerror}") from error
        terminal.stderr().print(f"{len(spans)} spans in {html}", markup=False)


def _recent(path: Path) -> Table:
    table = Table("trace", "began", "ms", "spans", "services", box=None, padding=(0, 2, 0, 0))
    for summary in recent_traces(path):
        began = datetime.fromtimestamp(summary.start_ns / 1e9).astimezone()
        table.add_row(
            summary.trace_id,
            f"{began:%Y-%m-%d %H:%M:%S}",
            f"{summary.duration_ms:.0f}",
            str(summary.num_spans),
            " ".join(summary.services),
        )
    return table


def fetch(
    source: Annotated[str, typer.Argument(help="Hub id, .gguf file or `default`.")] = "default",
) -> None:
    """Download and convert a model into the cache; print its folder."""
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        from treedraft.inference.weights import resolve

        folder = resolve(source, progress).folder
    print(folder)


def version() -> None:
    """Print the versions of treedraft and of what it stands on."""
    print(f"treedraft {__version__}")
    print(f"python {platform.python_version()}")
    for package in _SHOWN_PACKAGES:
        try:
            print(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"{package} not installed")
