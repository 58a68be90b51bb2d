"""Where the time of the engine's thread falls, by what is done there.

A profile counts what each function takes itself; a function of numpy or of the
interpreter counts for the module that called it. Looking makes many small calls dearer
than few large ones, so only the shares are of use.
"""

import cProfile
import pstats
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import treedraft

_ROOT = Path(treedraft.__file__).parent
_BUILT_IN = "~"
# What is done, by the beginning of the module's path; the first that fits.
_KINDS = {
    "inference/native/decoder": "the pass",
    "inference/fused/fence": "the pass",  # is waited for there
    "inference/fused/draw": "drawing",
    "inference/fused/": "laying rows out",
    "inference/native/": "laying rows out",
    "inference/segment": "laying rows out",
    "inference/runner": "laying rows out",
    "inference/block_pool": "pages and plan",
    "inference/kv_pool": "pages and plan",
    "inference/": "drawing",
    "target/scheduler": "pages and plan",
    "target/budget": "pages and plan",
    "target/prompt_": "pages and plan",
    "core/prefix": "pages and plan",
    "target/round_trace": "spans and metrics",
    "telemetry/": "spans and metrics",
    "target/session_roster": "telling and events",
    "target/engine": "telling and events",
    "target/drafting": "whether to draft",
    "target/gate": "whether to draft",
    "target/patience": "whether to draft",
    "target/outlook": "whether to draft",
    "target/finished_step": "whether to draft",
    "target/step_costs": "whether to draft",
    "target/forecast": "whether to draft",
    "target/": "walk and commit",
    "core/": "walk and commit",
    "text/": "walk and commit",
}
_PASS = "the pass"
_REST = "the rest"

_Function = tuple[str, int, str]


def falls(profile: cProfile.Profile, whole_ms: float) -> dict[str, float]:
    """Return milliseconds by what is done, in all `whole_ms`; the pass itself is left out."""
    shares: dict[str, float] = defaultdict(float)
    for function, seconds in _own_seconds(profile).items():
        if (kind := kind_of(function[0])) != _PASS:
            shares[kind] += seconds
    whole = sum(shares.values()) or 1.0
    return {kind: whole_ms * seconds / whole for kind, seconds in shares.items()}


def kind_of(file: str) -> str:
    """Return what is done in a module, by its file."""
    path = Path(file)
    if not path.is_relative_to(_ROOT):
        return _REST
    name = path.relative_to(_ROOT).as_posix()
    return next((kind for start, kind in _KINDS.items() if name.startswith(start)), _REST)


def _own_seconds(profile: cProfile.Profile) -> Mapping[_Function, float]:
    """Return what each function of a file took itself, with the built-in ones that it called."""
    own: dict[_Function, float] = defaultdict(float)
    table = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for function, (_, _, seconds, _, callers) in table.items():
        if not _is_helper(function):
            own[function] += seconds
            continue
        for caller, (_, _, share, _) in callers.items():
            own[caller] += share
    return own


def _is_helper(function: _Function) -> bool:
    """Return whether a function is the interpreter's or numpy's own, at work for its caller."""
    return function[0] == _BUILT_IN or not Path(function[0]).is_relative_to(_ROOT)
