"""What a run came to, for people and for programs."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.chaos.load import Outcome, Stall
from tests.chaos.storm import Suffered

SEVERAL = "several at once"
NOTHING = "none (load)"
# A fault may still be felt for so long after it is over: a redial, a new start's first work.
_AFTERMATH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a run; seconds and counts."""

    seed: int
    seconds: float
    at_once: int
    num_faults: int
    faults: dict[str, dict[str, int]]
    sessions: int
    tokens: int
    lost: int
    duplicated: int
    changed: int
    longest_stall_seconds: dict[str, float]
    examples: list[str] = field(default_factory=list)
    drills: dict[str, float] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether no answer was anything but right."""
        return self.lost == self.duplicated == self.changed == 0

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def table(self) -> str:
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s, {self.at_once} sessions at once",
            f"{self.num_faults} faults:",
            *(
                f"  {role:<12}" + ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))
                for role, kinds in sorted(self.faults.items())
            ),
            f"{self.sessions} sessions, {self.tokens} tokens: "
            f"{self.lost} lost, {self.duplicated} duplicated, {self.changed} changed",
            "longest stall by cause:",
            *(
                f"  {cause:<28}{seconds:6.2f} s"
                for cause, seconds in sorted(
                    self.longest_stall_seconds.items(), key=lambda item: -item[1]
                )
            ),
            *(f"{name}: {value:.3f}" for name, value in self.drills.items()),
            *self.examples,
        ]
        return "\n".join(lines)


def make_report(
    outcome: Outcome,
    suffered: Sequence[Suffered],
    *,
    seed: int,
    seconds: float,
    at_once: int,
    drills: dict[str, float],
) -> Report:
    """Return the figures of a run."""
    faults: dict[str, Counter[str]] = {}
    for one in suffered:
        faults.setdefault(one.fault.subject.role, Counter())[one.fault.kind] += 1
    return Report(
        seed=seed,
        seconds=seconds,
        at_once=at_once,
        num_faults=len(suffered),
        faults={role: dict(kinds) for role, kinds in faults.items()},
        sessions=outcome.num_sessions,
        tokens=outcome.num_tokens,
        lost=outcome.verdicts["lost"],
        duplicated=outcome.verdicts["duplicated"],
        changed=outcome.verdicts["changed"],
        longest_stall_seconds=longest_stalls(outcome.stalls, suffered),
        examples=outcome.examples,
        drills=drills,
    )


def longest_stalls(stalls: Sequence[Stall], suffered: Sequence[Suffered]) -> dict[str, float]:
    """Return the longest stall that each kind of fault alone can have caused."""
    longest: dict[str, float] = {}
    for stall in stalls:
        causes = {
            f"{one.fault.subject.role} {one.fault.kind}"
            for one in suffered
            if one.began < stall.ended and stall.began < one.ended + _AFTERMATH_SECONDS
        }
        cause = NOTHING if not causes else causes.pop() if len(causes) == 1 else SEVERAL
        longest[cause] = round(max(longest.get(cause, 0.0), stall.seconds), 3)
    return longest
