"""Loads that target and drafter are measured under, and how services are set for them."""

import argparse
from dataclasses import dataclass, field

from scripts.gpu.section import file_name


@dataclass(frozen=True)
class Load:
    """One run of the bench: requests at once, length of answers, and how services are set."""

    name: str
    at_once: tuple[int, ...] = (1,)
    tokens: int = 128
    repeats: int = 3
    settings: dict[str, str] = field(default_factory=dict)
    draft_device: str = ""
    by_mps: bool = False


_IN_TURNS = {
    "TREEDRAFT_DRAFT__GROWTH__SHARES_DEVICE": "true",
    "TREEDRAFT_TARGET__PATIENCE__TAKES_TURNS": "true",
}
_ALWAYS = {"TREEDRAFT_TARGET__GATE__ENABLED": "false"}


def _on_threads(count: int) -> dict[str, str]:
    return {"TREEDRAFT_DRAFT__NUM_THREADS": str(count)}


LOADS = (
    Load("same-gpu-always", settings=_ALWAYS),
    Load("same-gpu-always-in-turns", settings={**_ALWAYS, **_IN_TURNS}),
    Load("same-gpu-at-will"),
    Load("same-gpu-mps-always", settings=_ALWAYS, by_mps=True),
    Load("cpu-8-threads-always", settings=_ALWAYS | _on_threads(8), draft_device="cpu"),
    Load("cpu-4-threads-always", settings=_ALWAYS | _on_threads(4), draft_device="cpu"),
    Load("same-gpu-in-turns", settings=_IN_TURNS),
    Load("same-gpu-mps-at-will", by_mps=True),
    Load("cpu-8-threads-at-will", settings=_on_threads(8), draft_device="cpu"),
)
_SWEEP_SETTINGS = {
    "TREEDRAFT_TARGET__KV__TOKENS": "524288",
    "TREEDRAFT_TARGET__MAX_SESSIONS": "256",
    "TREEDRAFT_DRAFT__KV_TOKENS": "524288",
}


def loads_of(options: argparse.Namespace) -> list[Load]:
    """Return the loads that are asked for, in order; all of them if none is.

    They may be named as in files, or in words: "same GPU, always".
    """
    known = {load.name: load for load in LOADS}
    return [known[file_name(name)] for name in options.loads or known]


def settings_of(options: argparse.Namespace, *, is_many: bool) -> dict[str, str]:
    """Return what services are told for many sessions, placed as `--how` says."""
    how = next(load for load in LOADS if load.name == file_name(options.how))
    room = _SWEEP_SETTINGS if is_many and not options.tiny else {}
    return {**room, **how.settings, **options_set(options)}


def options_set(options: argparse.Namespace) -> dict[str, str]:
    """Return the environment variables given as NAME=VALUE."""
    return dict(one.split("=", 1) for one in options.set)
