"""Create `.venv` and install treedraft into it, with everything for development.

    python3 scripts/setup.py

Needs nothing but Python 3.11 or newer. Run again it returns at once, unless the
interpreter, the dependencies or this script have changed since. The versions
are those of constraints.txt. Where torch would bring gigabytes of CUDA, the CPU
build is taken instead if a configured package index has it
(`PIP_EXTRA_INDEX_URL=… make setup`); if none has, set-up says so and goes on.
"""

import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "treedraft-setup"
MIN_PYTHON = (3, 11)


def main() -> int:
    """Set up, or say why not. Return the exit status."""
    if sys.version_info < MIN_PYTHON:
        return fail(
            f"{sys.executable} is Python {sys.version.split()[0]}, but treedraft needs 3.11 or "
            "newer. Name another one: make setup PYTHON=python3.12"
        )
    if STAMP.exists() and STAMP.read_text() == fingerprint():
        return 0
    started = time.monotonic()
    try:
        create_venv()
        install()
    except subprocess.CalledProcessError as error:
        return fail(f"set-up stopped: {' '.join(map(str, error.cmd))} exited {error.returncode}")
    STAMP.write_text(fingerprint())
    say(f"ready in {time.monotonic() - started:.0f} s")
    return 0


def fingerprint() -> str:
    """Name everything that a finished set-up depends on."""
    digest = hashlib.sha256(f"{ROOT} {sys.version_info[:2]}".encode())
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def create_venv() -> None:
    """Make the virtual environment, anew if it belongs to another Python or folder."""
    if is_usable():
        return
    say(f"creating .venv with Python {sys.version.split()[0]}")
    try:
        run(sys.executable, "-m", "venv", "--clear", VENV)
    except subprocess.CalledProcessError:
        say("the module venv does not work; on Debian and Ubuntu: apt-get install python3-venv")
        raise


def is_usable() -> bool:
    """Return whether `.venv` works and has the version of this interpreter."""
    code = "import sys, pip; print(sys.version_info[:2], sys.prefix)"
    try:
        answer = subprocess.run([python(), "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return answer.stdout.strip() == f"{sys.version_info[:2]} {VENV}"


def install() -> None:
    """Install torch in the CPU build if there is one, then treedraft with all its parts."""
    constrained = ("-c", ROOT / "constraints.txt")
    if not has_gpu() and needs_cuda(constrained):
        install_cpu_torch(constrained)
    say("installing treedraft, its services and its tools (torch is about 200 MB)")
    pip("install", *constrained, "-e", f"{ROOT}[inference,autoscaler,report,dev]")


def install_cpu_torch(constrained: tuple[str | Path, ...]) -> None:
    """Install torch without CUDA, from whatever index is configured and has it."""
    pins = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    try:
        pip("install", *constrained, f"torch=={pins[0]}+cpu")
    except subprocess.CalledProcessError:
        say("no configured package index has a CPU build of torch; the one that comes with CUDA")
        say("takes gigabytes. To do without: PIP_EXTRA_INDEX_URL=<index of CPU builds> make setup")


def has_gpu() -> bool:
    """Return whether this machine has a GPU that the build with CUDA would use."""
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia").exists()


def needs_cuda(constrained: tuple[str | Path, ...]) -> bool:
    """Ask pip, without installing anything, whether torch would bring CUDA."""
    say("looking up torch")
    command: list[str | Path] = [
        python(),
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--quiet",
        "--report",
        "-",
    ]
    answer = subprocess.run(
        [*command, *constrained, "torch"], stdout=subprocess.PIPE, check=True, cwd=ROOT
    )
    installs = json.loads(answer.stdout)["install"]
    names = [item["metadata"]["name"].lower() for item in installs]
    return any(name.startswith(("nvidia-", "cuda-")) for name in names)


def pip(*arguments: str | Path) -> None:
    """Run the environment's pip."""
    run(python(), "-m", "pip", *arguments, "--disable-pip-version-check", "--progress-bar", "on")


def python() -> Path:
    """Return the interpreter of the environment."""
    return VENV / "bin" / "python"


def run(*command: str | Path) -> None:
    """Run a command, its output visible; raise if it fails."""
    subprocess.run(command, check=True, cwd=ROOT)


def say(text: str) -> None:
    """Tell the user what happens."""
    print(f"setup: {text}", flush=True)


def fail(text: str) -> int:
    """Tell the user why nothing more happens."""
    print(f"setup: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
