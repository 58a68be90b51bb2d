"""`python -m treedraft.training`: distillation where only what tensors need is installed.

The same as `treedraft distill`, without the packages of the servers; a rented
accelerator has no use for those.
"""

import argparse
import json
import sys
import time

from pydantic import ValidationError

from treedraft.core.errors import TreedraftError
from treedraft.training.pipeline import distill, parse_stages
from treedraft.training.settings import make_settings


def main(arguments: list[str] | None = None) -> int:
    """Run stages; print their figures as JSON and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m treedraft.training", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="out=DIR, train.layers=3")
    parser.add_argument("--stage", action="append", default=[], help="do this stage alone")
    parser.add_argument(
        "--redo", action="append", default=[], help="do this one and later afresh; repeated, go on"
    )
    given = parser.parse_args(arguments)
    started = time.monotonic()

    def show(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - started:7.1f} s] {text}\n")
        sys.stderr.flush()

    try:
        results = distill(
            make_settings({}, given.settings),
            stages=parse_stages(given.stage),
            redo=parse_stages(given.redo),
            progress=show,
        )
    except TreedraftError as error:
        sys.stderr.write(f"error: {error.message} ({error.reason})\n")
        return 1
    except ValidationError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(results, indent=2, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
