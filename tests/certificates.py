"""Certificates for tests, made by `openssl` on the spot: an authority, and who it vouches for."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from treedraft.settings import TlsSettings

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_LOCAL = "DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True)
class Authority:
    """Signs certificates into its folder."""

    folder: Path

    @property
    def ca(self) -> str:
        return str(self.folder / "ca.pem")

    def issue(self, name: str, alternative_names: str = _LOCAL) -> tuple[str, str]:
        """Make a certificate, in place of an earlier one of that name; return it and its key."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        _openssl(
            *("-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)),
            *("-CA", self.ca, "-CAkey", str(self.folder / "ca.key")),
            *("-addext", f"subjectAltName={alternative_names}"),
            *("-addext", "basicConstraints=critical,CA:false"),
        )
        return str(certificate), str(key)

    def settings(self, name: str, **changes: object) -> TlsSettings:
        """Return the settings of one whose certificate is made now."""
        certificate, key = self.issue(name)
        return TlsSettings(ca=self.ca, certificate=certificate, key=key, **changes)


def an_authority(folder: Path, name: str = "ca") -> Authority:
    """Return a new authority whose files are in a folder; skip the test without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    folder.mkdir(parents=True, exist_ok=True)
    files = ("-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.pem"))
    _openssl("-subj", f"/CN={name}", *files)
    return Authority(folder)


def replace_files(new: Sequence[str], used: Sequence[str]) -> None:
    """Put new files in the place of those in use, one by one, as a rotation does."""
    for source, place in zip(new, used, strict=True):
        Path(source).replace(place)


def _openssl(*arguments: str) -> None:
    command = ["openssl", "req", "-x509", "-days", "2", *_NEW_KEY, *arguments]
    subprocess.run(command, check=True, capture_output=True)
