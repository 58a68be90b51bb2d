"""The chart, installed as `demo` by a real Helm."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.chart.helm import Helm, HelmError

# Our autoscaler, for targets and drafters.
VALUES = (
    "autoscaling.kind=treedraft",
    "targetDefaults.scaling.maxReplicas=6",
    "draftDefaults.workload=Deployment",
)


@dataclass(frozen=True, slots=True)
class Release:
    """One release in one namespace; all values as Helm's `--set` takes them."""

    helm: Helm
    namespace: str
    kubeconfig: Path

    def install(self, *values: str, files: Sequence[Path] = ()) -> None:
        """Install it; raises HelmError."""
        self._run("install", "demo", str(self.helm.chart), *_given(values, files))

    def upgrade(self, *values: str, files: Sequence[Path] = ()) -> None:
        """Bring it to other values; raises HelmError."""
        self._run("upgrade", "demo", str(self.helm.chart), *_given(values, files))

    def uninstall(self) -> None:
        """Take it away; raises HelmError."""
        self._run("uninstall", "demo")

    def _run(self, *arguments: str) -> None:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.kubeconfig.parent),
            "KUBECONFIG": str(self.kubeconfig),
        }
        command = [str(self.helm.binary), *arguments, "--namespace", self.namespace]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise HelmError(done.stderr + done.stdout)


def _given(values: Sequence[str], files: Sequence[Path]) -> list[str]:
    sets = [part for value in (*VALUES, *values) for part in ("--set", value)]
    return [*(f"--values={file}" for file in files), *sets]
