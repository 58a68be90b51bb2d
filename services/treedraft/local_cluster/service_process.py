"""One service as a child process: start it, learn its endpoint, end it."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

from treedraft.core.errors import UnavailableError
from treedraft.local_cluster.plan import ServicePlan

POLL_SECONDS = 0.05
_LOG_TAIL_BYTES = 16_384
_LOG_LINE = re.compile(r"\S+ \[\w+ *\] (.*?)(?: +\[[\w.]+\].*)?$")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class ServiceProcess:
    """A running service. Its output goes to a log file, its endpoint to another."""

    def __init__(
        self, plan: ServicePlan, process: asyncio.subprocess.Process, folder: Path
    ) -> None:
        """Wrap a process; use `start`."""
        self._plan = plan
        self.name = plan.name
        self.role = plan.role
        self.log_path = plan.log_file(folder)
        self._endpoint_path = plan.endpoint_file(folder)
        self._endpoint = ""
        self._process = process
        self._is_expected_to_end = False

    @classmethod
    async def start(cls, plan: ServicePlan, folder: Path) -> "ServiceProcess":
        """Start the process, in a session of its own so that Ctrl-C does not hit it."""
        with plan.log_file(folder).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "treedraft.local_cluster.supervised",
                plan.role,
                str(os.getpid()),
                env=dict(plan.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return cls(plan, process, folder)

    @property
    def process_id(self) -> int:
        """The operating system's number of the process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process.returncode is None

    @property
    def exit_status(self) -> int | None:
        """What the process ended with; None while it lives."""
        return self._process.returncode

    @property
    def endpoint(self) -> str:
        """`host:port` once it listens, empty before."""
        if not self._endpoint:
            with contextlib.suppress(FileNotFoundError):
                self._endpoint = self._endpoint_path.read_text().strip()
        return self._endpoint

    @property
    def has_failed(self) -> bool:
        """Whether the process has ended by itself."""
        return not self.is_running and not self._is_expected_to_end

    def plan_again(self) -> ServicePlan:
        """Return the plan of a new start, at the same port: others know that one."""
        environment = dict(self._plan.environment)
        if self.endpoint:
            port = self.endpoint.rsplit(":", 1)[1]
            environment[f"TREEDRAFT_{self.role.upper()}__GRPC__PORT"] = port
        return replace(self._plan, environment=environment)

    def check(self) -> None:
        """Raise UnavailableError, reason SERVICE_DIED, if the process has ended by itself."""
        if self.has_failed:
            raise UnavailableError(
                f"{self.name} ended with status {self._process.returncode}; its last lines:\n"
                + self._last_words(),
                reason="SERVICE_DIED",
            )

    async def wait_for_endpoint(self) -> str:
        """Wait until it listens and return `host:port`; raises as `check`."""
        while not (endpoint := self.endpoint):
            self.check()
            await asyncio.sleep(POLL_SECONDS)
        return endpoint

    async def wait(self) -> None:
        """Wait until the process has ended."""
        await self._process.wait()

    def log_tail(self, num_lines: int = 15) -> str:
        """Return the last lines of its log, without colours."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        lines = [line for line in _ESCAPES.sub("", text).splitlines() if line.strip()]
        return "\n".join(lines[-num_lines:])

    def _last_words(self) -> str:
        # A line without a traceback before it says all there is to say.
        tail = self.log_tail()
        return tail if "Traceback" in tail else self.log_tail(3)

    def last_event(self) -> str:
        """Return what its last log line says, without time, level and details."""
        line = self.log_tail(1)
        match = _LOG_LINE.match(line)
        return match[1].strip() if match else line

    def send(self, number: signal.Signals) -> None:
        """Send a signal; `check` no longer minds its end if that ends it."""
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            self._is_expected_to_end = True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, patience_seconds: float) -> None:
        """End it gracefully, or by force when its time is up."""
        if not self.is_running:
            return
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait(), patience_seconds)
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.wait()
