"""`python -m treedraft.cli` is `treedraft`."""

from treedraft.cli import main

main()
