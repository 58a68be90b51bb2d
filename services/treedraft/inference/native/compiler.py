"""Compiles the decoder for this machine, once, into the cache folder.

The library is named by its sources, the compiler and the processor, so a change
of any makes another one. Processes that start together make it once: the first
compiles, the others wait. Without a compiler there is no library, which is no
error: passes are slower then.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import structlog
from filelock import FileLock

from treedraft.settings import cache_dir

_FOLDER = Path(__file__).resolve().parent
_SOURCES = (
    "decoder.cpp",
    "attention.h",
    "children.h",
    "decoder.h",
    "decoder_weights.h",
    "float_panels.h",
    "growth.h",
    "int8_panels.h",
    "linear.h",
    "norm.h",
    "pass.h",
    "thread_team.h",
    "vectors.h",
)
_FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    "-shared",
    "-fPIC",
    "-pthread",
    # No sum may be reordered: what a row comes to must not depend on how many rows,
    # or heads, a loop was written out for.
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
)
_TIMEOUT_SECONDS = 300.0

_log = structlog.get_logger(__name__)


@cache
def native_library() -> ctypes.CDLL | None:
    """Return the library, compiled if need be; None where that cannot be done.

    `TREEDRAFT_NATIVE=0` in the environment does without it.
    """
    compiler = find_compiler()
    if compiler is None or os.environ.get("TREEDRAFT_NATIVE", "1") == "0":
        return None
    try:
        return ctypes.CDLL(str(compile_library(compiler, cache_dir() / "native")))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or error
        _log.warning("no native decoder: passes go through torch", error=str(said)[-500:])
        return None


def find_compiler() -> str | None:
    """Return the path of a C++ compiler: `CXX`, or the first of the usual names."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def compile_library(compiler: str, folder: Path) -> Path:
    """Return the library in `folder`, compiled unless it is there.

    Raises:
        OSError: the folder cannot be written, or the compiler not be run.
        subprocess.SubprocessError: the compiler failed or took too long.
    """
    version = _run([compiler, "--version"])
    digest = hashlib.sha256(f"{version}{_FLAGS}{_processor()}".encode())
    for name in _SOURCES:
        digest.update((_FOLDER / name).read_bytes())
    library = folder / f"decoder-{digest.hexdigest()[:16]}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{library}.lock"):
        if not library.exists():
            made = library.with_suffix(f".{os.getpid()}.part")
            _run([compiler, *_FLAGS, "-o", str(made), str(_FOLDER / "decoder.cpp")])
            made.replace(library)
    return library


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
    )
    return done.stdout


def _processor() -> str:
    """Return what `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "flags", "Features", "CPU part")
    return platform.machine() + "".join(sorted({x for x in lines if x.startswith(kinds)}))
