"""Several hosts on one machine: a network namespace each, and a wire between them.

All of it lives in a user, a mount and a network namespace that `command` makes, so it wants
no root where the system lets people have user namespaces, touches nothing of the machine's
own network, and is gone with the process that made it.
"""

import ctypes
import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from tests.hosts.wire import MTU

# Where the suite itself is, and its clients.
HERE = "clients"
_SUBNET = "10.77.0"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_TUN = Path("/dev/net/tun")
_UNSHARE = (
    ("unshare", "--user", "--map-root-user", "--net", "--mount"),
    ("unshare", "--net", "--mount"),  # where only root may
)
_PROBE = "mount -t tmpfs none /run && ip netns add probe && ip -n probe tuntap add t0 mode tun"


def command(*arguments: str) -> list[str]:
    """Return the command line that runs a command where namespaces may be made.

    Raises:
        RuntimeError: there is no such place here; the message says why.
    """
    missing = [name for name in ("unshare", "ip", "mount") if shutil.which(name) is None]
    if missing:
        raise RuntimeError(f"not installed: {', '.join(missing)}")
    if not os.access(_TUN, os.R_OK | os.W_OK):
        raise RuntimeError(f"{_TUN} cannot be opened")
    why = ""
    for prefix in _UNSHARE:
        done = subprocess.run([*prefix, "sh", "-c", _PROBE], capture_output=True, text=True)
        if done.returncode == 0:
            return [*prefix, *arguments]
        why = why or done.stderr.strip()
    raise RuntimeError(f"namespaces are not permitted: {why}")


class Network:
    """The hosts and the wire; a context manager, to be used inside of `command`."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """Plan for these hosts, and for `clients`, which is where this process is."""
        self.addresses = {
            host: f"{_SUBNET}.{number}" for number, host in enumerate((HERE, *hosts), start=1)
        }
        self._wire: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Network":
        _run("mount", "-t", "tmpfs", "none", "/run")
        files = {}
        for host, address in self.addresses.items():
            if host != HERE:
                _run("ip", "netns", "add", host)
            files[address] = _open_tun(host)
            _up(host, address)
        self._wire = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.hosts.wire",
                *(f"{address}={file}" for address, file in files.items()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=tuple(files.values()),
        )
        for file in files.values():
            os.close(file)
        self.count()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._wire is not None
        self._wire.communicate(timeout=20)  # the end of its input is its end

    def on(self, host: str, *arguments: str) -> list[str]:
        """Return the command line that runs a command on a host."""
        return list(arguments) if host == HERE else ["ip", "netns", "exec", host, *arguments]

    def change(self, these: Iterable[str], those: Iterable[str], **what: float | bool) -> None:
        """Change the links between two sets of hosts, in both directions (fields of `Link`)."""
        pairs = [
            [self.addresses[one], self.addresses[other]]
            for one, other in product(these, those)
            if one != other
        ]
        self._say({"pairs": pairs + [pair[::-1] for pair in pairs], **what})

    def cut(self, these: Iterable[str], those: Iterable[str]) -> None:
        """Let nothing through any more, without a word."""
        self.change(these, those, is_cut=True)

    def heal(self) -> None:
        """Make every link whole and quick."""
        everybody = list(self.addresses)
        whole = {"delay_seconds": 0.0, "jitter_seconds": 0.0, "loss": 0.0, "is_cut": False}
        self.change(everybody, everybody, **whole)

    def count(self) -> dict[str, int]:
        """Return how many packets were sent, and how many of them dropped."""
        return self._say({})

    def _say(self, what: dict[str, object]) -> dict[str, int]:
        assert self._wire is not None
        assert self._wire.stdin is not None
        assert self._wire.stdout is not None
        self._wire.stdin.write(json.dumps(what) + "\n")
        self._wire.stdin.flush()
        found: dict[str, int] = json.loads(self._wire.stdout.readline())
        return found


def _up(host: str, address: str) -> None:
    there = [] if host == HERE else ["-n", host]
    _run("ip", *there, "link", "set", "lo", "up")
    _run("ip", *there, "addr", "add", f"{address}/24", "dev", "eth0")
    _run("ip", *there, "link", "set", "eth0", "up", "mtu", str(MTU))


def _open_tun(host: str) -> int:
    """Make the device `eth0` of a host and return its other end."""
    if host == HERE:
        return _make_tun()
    # The device belongs to the namespace of the thread that makes it.
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{host}", os.O_RDONLY)
    try:
        _enter(there)
        try:
            return _make_tun()
        finally:
            _enter(home)
    finally:
        os.close(home)
        os.close(there)


def _make_tun() -> int:
    file = os.open(_TUN, os.O_RDWR)
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TUN | _IFF_NO_PI))
    return file


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
