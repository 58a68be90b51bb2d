"""`treedraft up`: coordinator, targets and drafters on this machine until Ctrl-C."""

import asyncio
import contextlib
import signal
from typing import Annotated

import typer
from rich.table import Table

from treedraft.cli import options, terminal
from treedraft.cli.checks import MAX_PORT
from treedraft.cli.connection import say_drafter, started
from treedraft.inference.drafters import AUTO, choose_drafter
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan

DEFAULT_PORT = 50050
DEFAULT_HTTP_PORT = 8000


def up(
    target: options.Target = "default",
    draft: options.Draft = AUTO,
    redis: options.Redis = "",
    dtype: options.Dtype = "",
    weights: options.Weights = "",
    device: options.Device = "",
    draft_device: options.DraftDevice = "",
    num_targets: Annotated[int, typer.Option(min=1, help="Target processes.")] = 1,
    num_drafters: Annotated[int, typer.Option(min=0, help="Drafter processes.")] = 1,
    host: Annotated[str, typer.Option(help="Address of the coordinator.")] = "",
    port: Annotated[
        int, typer.Option(min=0, max=MAX_PORT, help="Port of the coordinator; 0 is any.")
    ] = DEFAULT_PORT,
    http_port: Annotated[
        int,
        typer.Option(min=0, max=MAX_PORT, help="Port of its HTTP door, OpenAI's API; 0 is any."),
    ] = DEFAULT_HTTP_PORT,
    metrics_port: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_PORT,
            help="Port of the coordinator's metrics; workers take the ports after it. 0: none.",
        ),
    ] = 0,
) -> None:
    """Run all services until Ctrl-C and print where they are."""
    plan = ClusterPlan(
        target=target,
        draft=choose_drafter(draft, target),
        redis=redis,
        dtype=dtype,
        weights=weights,
        device=device,
        draft_device=draft_device,
        num_targets=num_targets,
        num_drafters=num_drafters,
        coordinator_host=host,
        coordinator_port=port,
        http_port=http_port,
        metrics_port=metrics_port,
    )
    terminal.run(_up(plan))


async def _up(plan: ClusterPlan) -> None:
    console = terminal.stderr()
    async with started(plan, console) as cluster:
        say_drafter(plan, console)
        terminal.stdout().print(_endpoints(cluster))
        if cluster.address:
            console.print(f"OpenAI's API: {cluster.address}/v1", markup=False)
            console.print(f"Console: {cluster.address}/console", markup=False)
        console.print(f'treedraft generate --endpoint {cluster.endpoint} "…"    Ctrl-C stops')
        await _until_told(cluster)
        console.print("stopping")


async def _until_told(cluster: LocalCluster) -> None:
    """Return at SIGINT or SIGTERM; raise when a process dies by itself again and again."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    watch = asyncio.create_task(cluster.keep_up())
    wait = asyncio.create_task(told.wait())
    try:
        await asyncio.wait((watch, wait), return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            await watch
    finally:
        for task in (watch, wait):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _endpoints(cluster: LocalCluster) -> Table:
    table = Table("service", "endpoint", "process", box=None, padding=(0, 2, 0, 0))
    for name, process in cluster.processes.items():
        table.add_row(name, process.endpoint, str(process.process_id))
    return table
