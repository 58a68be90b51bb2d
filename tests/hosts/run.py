"""Sessions over a network that is slow, lossy and cut: `python -m tests.hosts.run`.

Each service is on a host of its own, that is in a network namespace of its own, and so are
the clients. One trouble after the other is made while sessions stream; every answer is
compared with the undisturbed one. The report goes to the terminal and, as JSON, to a file.
The status is 1 if any answer was not right, 3 if there can be no hosts here.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.chaos.load import Load, make_queries
from tests.hosts.cluster import COORDINATORS, DRAFTERS, HOSTS, REDIS, TARGETS, HostCluster
from tests.hosts.network import HERE, Network, command

from treedraft.inference.toy import make_toy_model

IMPOSSIBLE = 3
_INSIDE = "--inside"
_CALM_SECONDS = 1.5
# What a trouble did is still felt for so long: the back-off of TCP and of redials.
_AFTERMATH_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is done to the network, for so long."""

    name: str
    seconds: float
    make: Callable[[Network], None]


def _slow(network: Network) -> None:
    """Put 20 ms between clients, coordinators and targets, and 5 ms before drafters."""
    network.change(HOSTS, HOSTS, delay_seconds=0.01, jitter_seconds=0.002)
    network.change([HERE], COORDINATORS, delay_seconds=0.02, jitter_seconds=0.005)
    network.change(TARGETS, DRAFTERS, delay_seconds=0.0025, jitter_seconds=0.001)


def _lossy(network: Network) -> None:
    everybody = (HERE, *HOSTS)
    network.change(everybody, everybody, delay_seconds=0.002, loss=0.02)


TROUBLES = (
    Trouble("20 ms there and back, 5 ms to drafters", 4.0, _slow),
    Trouble("2 % of all packets lost", 4.0, _lossy),
    Trouble(
        "a coordinator and a target cannot reach each other",
        5.0,
        lambda network: network.cut([COORDINATORS[0]], [TARGETS[0]]),
    ),
    Trouble(
        "targets cannot reach the drafter", 3.0, lambda network: network.cut(TARGETS, DRAFTERS)
    ),
    Trouble(
        "clients cannot reach a coordinator",
        5.0,
        lambda network: network.cut([HERE], [COORDINATORS[0]]),
    ),
    Trouble(
        "a coordinator cannot reach Redis",
        3.0,
        lambda network: network.cut([COORDINATORS[1]], [REDIS]),
    ),
    Trouble(
        "a target's host is off the network",
        5.0,
        lambda network: network.cut([TARGETS[1]], (HERE, *HOSTS)),
    ),
)


@dataclass(frozen=True, slots=True)
class Felt:
    """A trouble, and how long an answer stood still for it."""

    name: str
    seconds: float
    longest_stall_seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to."""

    sessions: int
    tokens: int
    lost: int
    duplicated: int
    changed: int
    packets: int
    dropped: int
    calm_stall_seconds: float
    troubles: tuple[Felt, ...]
    examples: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether no answer was anything but right."""
        return self.lost == self.duplicated == self.changed == 0

    def table(self) -> str:
        return "\n".join(
            (
                f"{self.sessions} sessions, {self.tokens} tokens: {self.lost} lost, "
                f"{self.duplicated} duplicated, {self.changed} changed",
                f"{self.packets} packets, {self.dropped} dropped",
                f"longest stall, calm: {self.calm_stall_seconds:.2f} s",
                *(
                    f"longest stall, {one.name} ({one.seconds:.0f} s): "
                    f"{one.longest_stall_seconds:.2f} s"
                    for one in self.troubles
                ),
                *self.examples,
            )
        )


async def run(folder: Path, troubles: Sequence[Trouble], *, at_once: int) -> Report:
    """Make the troubles under load; to be called inside of the namespaces."""
    model = make_toy_model(folder / "toy", layers=2, hidden=64)
    with Network(HOSTS) as network:
        async with HostCluster(network, model, folder) as cluster:
            load, is_over = Load(cluster.endpoints, make_queries(24, seed=5)), asyncio.Event()
            try:
                await load.learn(at_once=4)
                began = time.monotonic()
                async with asyncio.TaskGroup() as group:
                    group.create_task(load.run(at_once, is_over, seed=5))
                    await asyncio.sleep(2 * _CALM_SECONDS)
                    times = [await _suffer(network, trouble) for trouble in troubles]
                    is_over.set()
            finally:
                await load.close()
        counted = network.count()
    return _report(load, troubles, (began, *times), counted)


async def _suffer(network: Network, trouble: Trouble) -> float:
    """Make a trouble, end it and let things calm down; return when it began."""
    began = time.monotonic()
    trouble.make(network)
    await asyncio.sleep(trouble.seconds)
    network.heal()
    await asyncio.sleep(_AFTERMATH_SECONDS + _CALM_SECONDS)
    return began


def _report(
    load: Load, troubles: Sequence[Trouble], times: Sequence[float], counted: dict[str, int]
) -> Report:
    outcome = load.outcome
    longest = [0.0] * len(times)
    for stall in outcome.stalls:
        # By what was last begun when it ended; the first entry is the calm before all.
        last = max((n for n, began in enumerate(times) if began <= stall.ended), default=0)
        longest[last] = max(longest[last], round(stall.seconds, 3))
    return Report(
        sessions=outcome.num_sessions,
        tokens=outcome.num_tokens,
        lost=outcome.verdicts["lost"],
        duplicated=outcome.verdicts["duplicated"],
        changed=outcome.verdicts["changed"],
        packets=counted["packets"],
        dropped=counted["dropped"],
        calm_stall_seconds=longest[0],
        troubles=tuple(
            Felt(trouble.name, trouble.seconds, stall)
            for trouble, stall in zip(troubles, longest[1:], strict=True)
        ),
        examples=outcome.examples,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("hosts.json"))
    parser.add_argument("--sessions", type=int, default=8, help="sessions at once")
    parser.add_argument("--logs", type=Path, help="keep the services' logs in this folder")
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        try:
            inside = command(sys.executable, "-m", "tests.hosts.run", *sys.argv[1:], _INSIDE)
        except RuntimeError as error:
            print(f"no hosts can be made here: {error}", file=sys.stderr)
            return IMPOSSIBLE
        return subprocess.run(inside).returncode
    with tempfile.TemporaryDirectory(prefix="treedraft-hosts-") as made:
        folder = options.logs or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        report = asyncio.run(run(folder.resolve(), TROUBLES, at_once=options.sessions))
    print(report.table())
    options.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
