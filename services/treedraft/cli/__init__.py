"""The command line: `treedraft`.

Every command is a thin skin over something that can be used without it.
stdout carries what was asked for and nothing else; progress, logs and errors
go to stderr. Modules that need torch are imported by the commands that use
them, so that asking a running cluster starts at once.
"""

from treedraft.cli.app import main

__all__ = ["main"]
