"""`treedraft keys`: keys of the coordinator's door."""

from typing import Annotated

import typer

from treedraft.cli import terminal

keys = typer.Typer(help="Make API keys of the coordinator.", no_args_is_help=True)


@keys.callback()
def _group() -> None:
    """Make API keys of the coordinator."""


@keys.command()
def new(
    tenant: Annotated[str, typer.Option(help="Whom the key speaks for.")],
) -> None:
    """Print a new key, which is kept nowhere, and the line that lets it in."""
    with terminal.errors_shown():
        from treedraft.coordinator.api_keys import key_line, new_key

        key = new_key()
        line = key_line(key, tenant)
    terminal.stderr().print("the key, shown this once; then its line under [keys]", markup=False)
    print(key)
    print(line)
