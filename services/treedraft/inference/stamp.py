"""What a measurement was made on: machine, versions, commit."""

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from treedraft import __version__

_PACKAGES = ("torch", "transformers", "tokenizers", "grpcio", "protobuf", "numpy")
_GIBIBYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class Stamp:
    """Everything that a number depends on and that does not show in it.

    `load_before` is the machine's load average over the last minute: numbers
    of a machine that was busy with something else are worth little.
    """

    time: str
    commit: str
    treedraft: str
    python: str
    system: str
    processor: str
    num_cores: int
    memory_gib: float
    load_before: float
    accelerator: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def machine(self) -> str:
        """Return the machine in a few words."""
        parts = [self.processor, f"{self.num_cores} cores", f"{self.memory_gib:.0f} GiB"]
        return ", ".join([*parts, self.accelerator] if self.accelerator else parts)


def take_stamp(now: datetime | None = None) -> Stamp:
    """Describe this machine and this checkout; to be called before the measurements."""
    return Stamp(
        time=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        commit=_commit(),
        treedraft=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        num_cores=num_usable_cores(),
        memory_gib=round(_memory_bytes() / _GIBIBYTE, 1),
        load_before=round(os.getloadavg()[0], 2),
        accelerator=_accelerator(),
        packages={name: metadata.version(name) for name in _PACKAGES},
    )


def num_usable_cores() -> int:
    """Return the cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _commit() -> str:
    """Return the commit, with `+changes` if files differ from it; empty outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
