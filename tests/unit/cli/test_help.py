"""Help that teaches, completion, and values that are refused before anything starts."""

import os
import shlex
import subprocess
import sys

import click
import pytest
import typer
from typer.testing import CliRunner

from treedraft.cli.app import make_app
from treedraft.cli.examples import EXAMPLES
from treedraft.cli.hints import HINTS

COMMANDS = typer.main.get_command(make_app()).commands


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(make_app(), list(arguments))


@pytest.mark.parametrize(
    ("command", "line"),
    [(command, line) for command, examples in EXAMPLES.items() for line, _ in examples],
)
def test_an_example_is_a_command_that_there_is(command, line):
    program, name, *arguments = shlex.split(line)
    assert (program, name) == ("treedraft", command)
    # Raises for options and values that there are not; starts nothing.
    with click.Context(COMMANDS[name]) as parent:
        COMMANDS[name].make_context(name, arguments, parent=parent)


@pytest.mark.parametrize("command", sorted({*EXAMPLES} & {*COMMANDS}))
def test_help_ends_with_examples(run, command):
    shown = run(command, "--help").stdout
    assert "Examples:" in shown
    for line, comment in EXAMPLES[command]:
        assert line in shown
        assert comment in shown


def test_every_command_for_users_has_examples():
    assert {*COMMANDS} - {*EXAMPLES} <= {
        "version", "keys", "bench", "autoscaler", "health", "rollout",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("up", "--port", "70000"), "--port"),
        (("up", "--dtype", "float64"), "none of float32"),
        (("generate", "x", "--dtype", "fp16"), "none of float32"),
        (("generate", "x", "--device", "gpu"), "no device"),
        (("generate", "x", "--endpoint", "localhost"), "host:port"),
        (("generate", "x", "--endpoint", "http://localhost:8000"), "host:port of gRPC"),
        (("generate", "x", "--endpoint", "host:99999"), "host:port"),
        (("chat", "--temperature", "-1"), "temperature"),
        (("chat", "--endpoint", "127.0.0.1:1", "--target", "x"), "--endpoint names a running"),
        (("target", "--dtype", "int3"), "none of float32"),
        (("draft", "--weights", "int4"), "none of auto"),
        (("coordinator", "--port", "-1"), "--port"),
    ],
)
def test_a_bad_value_is_refused_at_once_and_in_plain_words(run, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_a_dead_endpoint_is_told_without_the_words_of_grpc(run):
    result = run("generate", "hello", "--endpoint", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.stderr
    assert "hint: " in result.stderr
    for word in ("StatusCode", "last error", "ipv4", "addresses"):
        assert word not in result.stderr


def test_hints_are_about_reasons_that_there_are():
    assert all(reason == reason.upper() for reason in HINTS)
    assert all(hint and not hint.endswith(".") for hint in HINTS.values())


@pytest.mark.parametrize(
    ("typed", "completed"), [("treedraft ch", "chat"), ("treedraft to", "top")]
)
def test_the_shell_completes_commands(typed, completed):
    environment = {
        **os.environ,
        "_TREEDRAFT_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": "1",
    }
    program = "from treedraft.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = 'treedraft'; {program}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout.split() == [completed], result.stderr
