"""`treedraft health`: whether a service can do its work, as an exit status."""

from typing import Annotated

import typer

from treedraft.cli import options, terminal
from treedraft.cli.connection import tls_settings
from treedraft.rpc.health_client import ask_health


def health(
    endpoint: Annotated[str, typer.Argument(help="host:port of any service.")],
    service: Annotated[
        str,
        typer.Option(
            help="What to ask for; empty is the whole service, `treedraft.liveness` its process."
        ),
    ] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait.")] = 5.0,
    ca: options.Ca = "",
    cert: options.Cert = "",
    key: options.Key = "",
) -> None:
    """Say whether a service is healthy; exit with 1 if it is not."""
    with terminal.errors_shown():
        tls = tls_settings(ca, cert, key)
    is_serving = terminal.run(ask_health(endpoint, service, tls=tls, timeout_seconds=timeout))
    print("SERVING" if is_serving else "NOT_SERVING")
    raise typer.Exit(0 if is_serving else 1)
