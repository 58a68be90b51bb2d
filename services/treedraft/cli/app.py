"""The commands of `treedraft`, put together."""

import typer

from treedraft.cli.benchmark import bench
from treedraft.cli.demo import demo
from treedraft.cli.distill import distill
from treedraft.cli.generate import generate
from treedraft.cli.inspect import fetch, models, trace, version
from treedraft.cli.judge import judge
from treedraft.cli.keys import keys
from treedraft.cli.services import coordinator, draft, target
from treedraft.cli.tune import tune
from treedraft.cli.up import up

_PANELS = {
    "Use": (demo, up, generate, models, trace),
    "Run one service": (coordinator, target, draft),
    "More": (bench, tune, judge, distill, fetch, version),
}


def make_app() -> typer.Typer:
    """Return the application with all its commands."""
    app = typer.Typer(
        name="treedraft",
        help="Large language models, faster and word for word the same: a draft model grows a "
        "tree of likely continuations, the target model checks it in one pass.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for panel, commands in _PANELS.items():
        for command in commands:
            app.command(rich_help_panel=panel)(command)
    app.add_typer(keys, name="keys", rich_help_panel="Run one service")
    return app


def main() -> None:
    """Run the command line."""
    make_app()()
