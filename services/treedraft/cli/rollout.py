"""`treedraft rollout`: pools beside each other, and how new sessions are shared out."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from treedraft.cli import options, terminal
from treedraft.cli.connection import tls_settings
from treedraft.cli.up import DEFAULT_PORT
from treedraft.core.errors import InvalidRequestError
from treedraft.core.rollout import INVALID_WEIGHT, Pool, RolloutDescription, WeightChange
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.settings import TlsSettings

rollout = typer.Typer(
    help="Share new sessions out among pools; compare what came of them.", no_args_is_help=True
)

_ENDPOINT = f"127.0.0.1:{DEFAULT_PORT}"
_POOL_HELP = "target/NAME or draft/NAME."


@rollout.callback()
def _group() -> None:
    """Share new sessions out among pools; compare what came of them."""


@rollout.command()
def show(
    endpoint: options.RunningEndpoint = _ENDPOINT,
    api_key: options.ApiKey = "",
    ca: options.Ca = "",
    cert: options.Cert = "",
    key: options.Key = "",
) -> None:
    """Show all pools, and what came of the sessions of each pair of them."""
    with terminal.errors_shown():
        tls = tls_settings(ca, cert, key)
    described = terminal.run(_describe(endpoint, tls, api_key))
    terminal.stdout().print(Group(_pool_table(described), "", *_pairings(described)))


@rollout.command("set")
def set_weights(
    weights: Annotated[
        list[str], typer.Argument(metavar="POOL=WEIGHT…", help=f"Shares; POOL is {_POOL_HELP}")
    ],
    endpoint: options.RunningEndpoint = _ENDPOINT,
    api_key: options.ApiKey = "",
    ca: options.Ca = "",
    cert: options.Cert = "",
    key: options.Key = "",
) -> None:
    """Give pools new shares of new sessions; those that run stay where they are."""
    with terminal.errors_shown():
        tls = tls_settings(ca, cert, key)
        changes = [_parse(text) for text in weights]
    _change(endpoint, tls, api_key, changes)


@rollout.command()
def back(
    pool: Annotated[str, typer.Argument(help=_POOL_HELP)],
    endpoint: options.RunningEndpoint = _ENDPOINT,
    api_key: options.ApiKey = "",
    ca: options.Ca = "",
    cert: options.Cert = "",
    key: options.Key = "",
) -> None:
    """Back out of a pool: no new session goes there; those that run end there."""
    with terminal.errors_shown():
        tls = tls_settings(ca, cert, key)
        changes = [WeightChange(Pool.parse(pool), 0.0)]
    _change(endpoint, tls, api_key, changes)


@rollout.command()
def reset(
    pools: Annotated[list[str], typer.Argument(metavar="POOL…", help=_POOL_HELP)],
    endpoint: options.RunningEndpoint = _ENDPOINT,
    api_key: options.ApiKey = "",
    ca: options.Ca = "",
    cert: options.Cert = "",
    key: options.Key = "",
) -> None:
    """Go back to the shares that the workers of pools announce."""
    with terminal.errors_shown():
        tls = tls_settings(ca, cert, key)
        changes = [WeightChange(Pool.parse(pool), None) for pool in pools]
    _change(endpoint, tls, api_key, changes)


def _parse(text: str) -> WeightChange:
    pool, _, weight = text.partition("=")
    try:
        return WeightChange(Pool.parse(pool), float(weight))
    except ValueError:
        raise InvalidRequestError(
            f"{text!r}: give POOL=WEIGHT, as target/v2=0.1", field="weights", reason=INVALID_WEIGHT
        ) from None


def _change(endpoint: str, tls: TlsSettings, api_key: str, changes: Sequence[WeightChange]) -> None:
    described = terminal.run(_apply(endpoint, tls, api_key, changes))
    terminal.stdout().print(_pool_table(described))


async def _apply(
    endpoint: str, tls: TlsSettings, api_key: str, changes: Sequence[WeightChange]
) -> RolloutDescription:
    client = CoordinatorClient(endpoint, tls=tls, api_key=api_key)
    try:
        known = {status.pool for status in (await client.describe_rollout()).pools}
        for change in changes:
            if change.pool not in known:
                names = ", ".join(map(str, sorted(known))) or "none"
                raise InvalidRequestError(
                    f"there is no pool {change.pool}; there is {names}",
                    field="pool",
                    reason="UNKNOWN_POOL",
                )
        await client.set_pool_weights(changes)
        return await client.describe_rollout()
    finally:
        await client.close()


async def _describe(endpoint: str, tls: TlsSettings, api_key: str) -> RolloutDescription:
    client = CoordinatorClient(endpoint, tls=tls, api_key=api_key)
    try:
        return await client.describe_rollout()
    finally:
        await client.close()


def _pool_table(described: RolloutDescription) -> Table:
    columns = ("pool", "weight", "announced", "share", "models", "workers", "sessions")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for status in described.pools:
        whole = sum(one.weight for one in described.pools if one.pool.role == status.pool.role)
        draining = f" ({status.num_draining} draining)" if status.num_draining else ""
        table.add_row(
            str(status.pool),
            f"{status.weight:g}",
            f"{status.announced_weight:g}",
            f"{status.weight / whole:.0%}" if whole else "0%",
            ", ".join(model or "lookup" for model in status.models),
            f"{status.num_workers}{draining}",
            str(status.num_sessions),
        )
    return table


def _pairings(described: RolloutDescription) -> list[Table | str]:
    if not described.pairings:
        return ["no session has ended yet"]
    columns = ("model", "target", "drafters", "sessions", "failed", "accepted", "tokens/pass")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for pairing, counts in described.pairings:
        table.add_row(
            pairing.model,
            pairing.target or "-",
            "+".join(drafter or "-" for drafter in pairing.drafters) or "none",
            str(counts.sessions),
            str(counts.failures),
            f"{counts.acceptance:.1%}" if counts.admitted_nodes else "",
            f"{counts.tokens_per_round:.2f}" if counts.rounds else "",
        )
    if not described.since:
        return [table]
    since = datetime.fromtimestamp(described.since).astimezone()
    return [f"since {since:%Y-%m-%d %H:%M:%S}, when the weights were changed:", table]
