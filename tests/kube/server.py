"""A real API server: kube-apiserver, etcd and kube-controller-manager as processes.

`make kube-binaries` builds and fetches them into the cache folder; without them there is
nothing to start, and the suite is skipped. The server listens on this machine alone, speaks
TLS under a certificate of its own, and checks rights by RBAC. Controllers make pods; no
kubelet runs them.
"""

import contextlib
import csv
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

import urllib3
from kubernetes import client
from tests.chaos.fleet import free_port
from tests.scale_down.autoscaler_process import write_kubeconfig

VERSION = "1.20.2"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
# Those whose work the suite looks at; the token controller makes service accounts usable.
_CONTROLLERS = (
    "deployment,replicaset,statefulset,serviceaccount,serviceaccount-token,garbagecollector"
)
_START_SECONDS = 90.0
_PROXY_ENVIRONMENT = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


def binaries() -> Path | None:
    """Return the folder of the programs, None if one of them is missing.

    `TREEDRAFT_KUBE` names another folder than that in the cache.
    """
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    named = os.environ.get("TREEDRAFT_KUBE")
    folder = Path(named) if named else Path(home) / "treedraft" / "kube" / VERSION
    return folder if all(os.access(folder / name, os.X_OK) for name in PROGRAMS) else None


class KubeServer:
    """The three processes; a context manager."""

    def __init__(self, programs: Path, folder: Path) -> None:
        """Prepare to run; certificates, keys, data and logs go to the folder."""
        self._programs = programs
        self._folder = folder
        self._etcd_port, self._port = free_port(), free_port()
        self._admin_token = secrets.token_hex(16)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._clients: list[client.ApiClient] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def ca_file(self) -> str:
        """The server's own certificate is its authority."""
        return str(self._folder / "certificates" / "apiserver.crt")

    def __enter__(self) -> "KubeServer":
        try:
            self._make_keys()
            self._start_etcd()
            self.start_api()
            self._start_controllers()
        except BaseException:
            self._stop_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_all()

    def client(self, token: str = "") -> client.ApiClient:
        """Return a client with a token; that of an administrator unless one is given."""
        configuration = client.Configuration(host=self.url)
        configuration.ssl_ca_cert = self.ca_file
        configuration.api_key = {"authorization": f"Bearer {token or self._admin_token}"}
        configuration.retries = False
        self._clients.append(client.ApiClient(configuration))
        return self._clients[-1]

    def kubeconfig(self, path: Path, token: str = "") -> Path:
        """Write a kubeconfig with a token; that of an administrator unless one is given."""
        token = token or self._admin_token
        return write_kubeconfig(path, self.url, token=token, ca_file=self.ca_file)

    def start_api(self) -> None:
        """Start the API server and wait until it is ready."""
        keys = self._folder / "service-accounts"
        self._launch(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--cert-dir={self._folder / 'certificates'}",
            f"--secure-port={self._port}",
            "--bind-address=127.0.0.1",
            "--service-cluster-ip-range=10.77.0.0/24",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--service-account-issuer=https://treedraft.test",
            f"--service-account-key-file={keys}.pub",
            f"--service-account-signing-key-file={keys}.key",
        )
        self._until_ready()

    def stop_api(self) -> None:
        """End the API server as a crash would; etcd keeps what there is."""
        process = self._processes.pop("kube-apiserver")
        process.kill()
        process.wait()

    def _start_etcd(self) -> None:
        peer = f"http://127.0.0.1:{free_port()}"
        url = f"http://127.0.0.1:{self._etcd_port}"
        self._launch(
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )

    def _start_controllers(self) -> None:
        config = self.kubeconfig(self._folder / "controllers.kubeconfig")
        self._launch(
            "kube-controller-manager",
            f"--kubeconfig={config}",
            f"--service-account-private-key-file={self._folder / 'service-accounts.key'}",
            f"--root-ca-file={self.ca_file}",
            "--leader-elect=false",
            "--port=0",
            f"--secure-port={free_port()}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self._folder / 'controllers'}",
            f"--controllers={_CONTROLLERS}",
        )

    def _make_keys(self) -> None:
        key = str(self._folder / "service-accounts.key")
        _run("openssl", "genrsa", "-out", key, "2048")
        _run("openssl", "rsa", "-in", key, "-pubout", "-out", key.replace(".key", ".pub"))
        with (self._folder / "tokens.csv").open("w", newline="") as tokens:
            csv.writer(tokens).writerow([self._admin_token, "admin", "1", "system:masters"])

    def _until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            # Before the first start there is no certificate to trust either.
            with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
                if self._is_ready():
                    return
            self.check()
            time.sleep(0.1)
        raise RuntimeError("kube-apiserver was not ready in time")

    def _is_ready(self) -> bool:
        """Whether it says so, which is when it knows who has which rights."""
        headers = {"Authorization": f"Bearer {self._admin_token}"}
        with urllib3.PoolManager(ca_certs=self.ca_file) as pool:
            answer = pool.request(
                "GET", f"{self.url}/readyz", headers=headers, timeout=5.0, retries=False
            )
        return answer.status == HTTPStatus.OK

    def check(self) -> None:
        """Raise if a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                said = (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} ended with status {process.returncode}:\n{said}")

    def _launch(self, name: str, *arguments: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in _PROXY_ENVIRONMENT}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(self._programs / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=environment,
            )

    def _stop_all(self) -> None:
        for api in self._clients:
            api.rest_client.pool_manager.clear()
        for name in reversed(self._order()):
            self._processes[name].kill()
            self._processes[name].wait()
        self._processes.clear()

    def _order(self) -> Sequence[str]:
        return [name for name in PROGRAMS if name in self._processes]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
