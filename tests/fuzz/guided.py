"""Fuzzes one reader by coverage: `python -m tests.fuzz.guided --target convert.draft_frame`.

atheris (https://github.com/google/atheris) counts which branches of ours an input takes, and
goes on from those that take new ones. Half of the steps are its own; for messages the other half
are those of `tests.fuzz.mutate`, which the parser lets pass. It is not in the development set-up:
`pip install '.[fuzz]'`. The process ends with its last input, so there is one for each reader;
an input that crashes is kept in the folder of `--crashes`, as a file, and printed as `--replay`
of `tests.fuzz.run` takes it.
"""

import argparse
import faulthandler
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

_HANG_SECONDS = 20
_MAX_RSS_MB = 2048
_MAX_INPUT_BYTES = 65_536


def is_installed() -> bool:
    """Return whether atheris is there."""
    return find_spec("atheris") is not None


def guide(names: Sequence[str], num_inputs: int, seed: int, crashes: Path) -> dict[str, str]:
    """Run each reader in a process of its own; return `OK` or the end of what it printed."""
    found = {}
    for name in names:
        command = (
            *(sys.executable, "-m", "tests.fuzz.guided", "--target", name, "--seed", str(seed)),
            *("--inputs", str(num_inputs), "--crashes", str(crashes)),
        )
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        found[name] = "OK" if ran.returncode == 0 else (ran.stdout + ran.stderr)[-4000:]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzz one reader; does not return."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crashes", type=Path, default=Path())
    chosen = parser.parse_args(arguments)
    import atheris

    with atheris.instrument_imports(include=["treedraft"], enable_loader_override=False):
        from tests.fuzz import mutate
        from tests.fuzz.targets import all_targets, reason_of

        from treedraft.core.errors import TreedraftError
    folder = Path(tempfile.mkdtemp())
    target = next(one for one in all_targets(folder) if one.name == chosen.target)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.corpus):
        (corpus / str(number)).write_bytes(data[:_MAX_INPUT_BYTES])

    def feed(data: bytes) -> None:
        try:
            target.run(data)
        except TreedraftError as error:
            reason_of(error)
        except Exception:
            print(f"python -m tests.fuzz.run --target {target.name} --replay {data.hex()}")
            raise

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if target.message is None or rng.random() < 0.5:
            return atheris.Mutate(data, max_size)
        try:
            message = target.message.FromString(data)
        except Exception:
            return atheris.Mutate(data, max_size)
        mutate.mutate_message(message, rng)
        return message.SerializeToString()[:max_size]

    flags = (
        *(f"-runs={chosen.inputs}", f"-seed={chosen.seed + 1}", f"-timeout={_HANG_SECONDS}"),
        *(f"-rss_limit_mb={_MAX_RSS_MB}", f"-max_len={_MAX_INPUT_BYTES}"),
        f"-artifact_prefix={chosen.crashes.resolve()}/",
        str(corpus),
    )
    faulthandler.enable()
    atheris.Setup([sys.argv[0], *flags], feed, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
