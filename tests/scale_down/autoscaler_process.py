"""Our autoscaler as a process, with a kubeconfig for whatever API server there is."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.chaos.fleet import free_port

_PREFIX = "TREEDRAFT_AUTOSCALER__"
_STOP_SECONDS = 20.0


def write_kubeconfig(path: Path, server: str, *, token: str = "", ca_file: str = "") -> Path:
    """Write a kubeconfig of one cluster and one user."""
    cluster = {"server": server, **({"certificate-authority": ca_file} if ca_file else {})}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token} if token else {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


class AutoscalerProcess:
    """`python -m treedraft.autoscaler`; an async context manager."""

    def __init__(self, folder: Path, kubeconfig: Path, settings: Mapping[str, str]) -> None:
        """Prepare; `settings` are variables without their prefix."""
        self.log = folder / "autoscaler.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_PREFIX)}
        self._environment = {
            **kept,
            "KUBECONFIG": str(kubeconfig),
            "PYTHONUNBUFFERED": "1",
            _PREFIX + "GRPC__PORT": str(free_port()),
            _PREFIX + "TELEMETRY__SAMPLE_RATIO": "0",
            **{_PREFIX + key: value for key, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> "AutoscalerProcess":
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, "-m", "treedraft.autoscaler"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def check(self) -> None:
        """Raise if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"the autoscaler ended:\n{self.log.read_text()[-2000:]}")


def pools_setting(
    kind: str, name: str, *, most: int, extra: Mapping[str, object] | None = None
) -> str:
    """Return the setting POOLS for one pool of targets, between one and so many."""
    target = {"kind": kind, "name": name, "min_replicas": 1, "max_replicas": most}
    return json.dumps([{"target": target, **(extra or {})}])


def endpoints_setting(endpoints: Sequence[str]) -> str:
    """Return the setting COORDINATORS."""
    return ",".join(endpoints)
