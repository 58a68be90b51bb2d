"""The commands of `treedraft`, put together."""

from collections.abc import Callable

import typer

from treedraft.cli.bench_door import door
from treedraft.cli.bench_tracing import tracing
from treedraft.cli.benchmark import bench
from treedraft.cli.chat import chat
from treedraft.cli.demo import demo
from treedraft.cli.distill import distill
from treedraft.cli.examples import epilog
from treedraft.cli.generate import generate
from treedraft.cli.health import health
from treedraft.cli.hits import hits
from treedraft.cli.host import host
from treedraft.cli.inspect import fetch, models, trace, version
from treedraft.cli.judge import judge
from treedraft.cli.keys import keys
from treedraft.cli.links import links
from treedraft.cli.passes import passes
from treedraft.cli.peers import peers
from treedraft.cli.rollout import rollout
from treedraft.cli.services import autoscaler, coordinator, draft, target
from treedraft.cli.simulate import simulate
from treedraft.cli.top import top
from treedraft.cli.tune import tune
from treedraft.cli.up import up

_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Use": (demo, up, chat, generate, models, top, trace),
    "Run one service": (coordinator, target, draft, autoscaler, health),
    "More": (tune, judge, distill, simulate, fetch, version),
}


def make_app() -> typer.Typer:
    """Return the application with all its commands."""
    app = typer.Typer(
        name="treedraft",
        help="Large language models, faster and word for word the same: a draft model grows a "
        "tree of likely continuations, the target model checks it in one pass.",
        epilog="\b\nBegin with:\n"
        "  treedraft demo                  # a real model, without and with speculation\n"
        "  treedraft chat                  # talk with it\n"
        "  treedraft COMMAND --help        # what a command does, with examples\n"
        "  treedraft --install-completion  # commands and options at the tab key",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for panel, commands in _PANELS.items():
        for command in commands:
            app.command(rich_help_panel=panel, epilog=epilog(command.__name__))(command)
    app.add_typer(rollout, name="rollout", rich_help_panel="Use")
    app.add_typer(keys, name="keys", rich_help_panel="Run one service")
    app.add_typer(_bench_app(), rich_help_panel="More")
    return app


def _bench_app() -> typer.Typer:
    """Return `bench`, which measures when called alone and has commands below it."""
    app = typer.Typer(name="bench", invoke_without_command=True, rich_markup_mode=None)
    app.callback(invoke_without_command=True)(bench)
    app.command()(door)
    app.command()(hits)
    app.command()(host)
    app.command()(links)
    app.command()(peers)
    app.command()(passes)
    app.command()(tracing)
    return app


def main() -> None:
    """Run the command line."""
    make_app()()
