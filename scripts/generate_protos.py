"""Generate `services/treedraft/v1` from `protos/`, or check that it is up to date.

    python scripts/generate_protos.py            write
    python scripts/generate_protos.py --check    compare; exit 1 on a difference

The generated code is committed, so that a fresh clone type-checks and runs
without a compiler. Since the path of a proto is the import path of its module,
nothing is patched.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("treedraft", "v1")
GENERATED = ROOT / "services" / PACKAGE
PLUGINS = ("mypy", "mypy_grpc")


def main() -> int:
    """Generate or check; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on drift")
    is_check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as name:
        fresh = generate(Path(name))
        changed = differences(fresh, GENERATED)
        if is_check:
            return report(changed)
        replace(fresh, changed)
    return 0


def generate(folder: Path) -> Path:
    """Run the compiler with its plugins into a folder; return the package's folder."""
    scripts = Path(sys.executable).parent
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    outputs = ("python", "grpc_python", *PLUGINS)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTOS}",
            *(f"--plugin=protoc-gen-{name}={scripts / f'protoc-gen-{name}'}" for name in PLUGINS),
            *(f"--{output}_out={folder}" for output in outputs),
            *sources,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        sys.exit(result.stderr)
    package = folder / PACKAGE
    (package / "__init__.py").write_text(
        '"""Generated from protos/treedraft/v1 by `make proto`; never edited."""\n'
    )
    return package


def differences(fresh: Path, committed: Path) -> list[str]:
    """Return the names of files that differ, are missing, or are there in vain."""
    names = {path.name for path in fresh.iterdir()}
    if committed.exists():
        names |= {path.name for path in committed.iterdir() if path.is_file()}
    _, mismatched, missing = filecmp.cmpfiles(fresh, committed, sorted(names), shallow=False)
    return sorted(mismatched + missing)


def report(changed: list[str]) -> int:
    """Tell of drift; return the exit status."""
    for name in changed:
        print(f"{GENERATED.relative_to(ROOT) / name} does not match protos/; run `make proto`")
    return 1 if changed else 0


def replace(fresh: Path, changed: list[str]) -> None:
    """Bring the committed folder up to date, touching only what changed."""
    GENERATED.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if (fresh / name).exists():
            shutil.copyfile(fresh / name, GENERATED / name)
        else:
            (GENERATED / name).unlink()
        print(f"updated {GENERATED.relative_to(ROOT) / name}")


if __name__ == "__main__":
    sys.exit(main())
