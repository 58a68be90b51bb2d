"""Prove and measure the engine on a CUDA device, section by section, in one go.

    python -m scripts.gpu.prove --out FOLDER [--only SECTION …] [--within SECONDS] [--bundle FILE]

A section runs in a process of its own under a time limit, so that a crash of one costs
that one alone; its findings go to FOLDER/SECTION.json as they are found, its log to
FOLDER/SECTION.log. What its time ends is told with what was found by then. A short table comes
last; the bundle, if one is named, joins all findings in one file after each section.
docs/gpu.md has three calls that answer what is open.

`--tiny` runs every section over a toy on whatever device there is (`TRITON_INTERPRET=1` where
there is none), to see that the script is right.

Nothing is fetched if the weights lie where a download would put them, as
`~/.cache/treedraft/downloads/SmolLM2-135M-Instruct.Q4_1.gguf`. They may be carried in two
halves: `split -b 60M` cuts the file, `cat` joins it.
"""

import argparse
import importlib.util
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from scripts.gpu.findings import join, print_table
from scripts.gpu.loads import LOADS
from scripts.gpu.section import (
    END_SECONDS,
    Call,
    Found,
    Section,
    be_interrupted,
    file_name,
    keep,
    run_bounded,
    tried,
)

MODELS = ("8b", "1.5b", "135m")
_GRACE_SECONDS = END_SECONDS + 5.0  # that a section has to end by itself, with what it started
_LEAST_SECONDS = 15.0  # a section that has less is left out


def kernels(call: Call) -> Found:
    """Run the tests of the kernels on the device itself."""
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", "."]
    command += ["-p", "no:cacheprovider", "tests/unit/inference/fused"]
    command += ["tests/unit/draft/test_model_levels.py"]
    if importlib.util.find_spec("xdist"):  # most of the time goes to compilation
        command += ["-n", "8"]
    command += ["--deselect", "tests/unit/inference/fused/test_fused_compilation.py"]
    if call.is_tiny:
        command += ["-k", "test_fused_draw or test_fused_fence"]
    # What passes and fails is printed as it does: a run without an end says something as well.
    done = run_bounded(command, call.seconds_left, stdout=None, stderr=None)
    yield "exit", "out of time; see the log" if done is None else done.returncode


def identity(call: Call) -> Found:
    """Compare logits bit by bit, and texts token by token."""
    from scripts.gpu.identity import check
    from scripts.gpu.subjects import load

    tokens = (40, 6) if call.is_tiny else (700, 160)
    model = load(call.options.weights, call.device)
    yield from check(model, num_context=tokens[0], num_steps=tokens[1])


def _passes(name: str) -> Section:
    def section(call: Call) -> Found:
        from scripts.gpu.passes import by_kernel, copy_bandwidth, measure
        from scripts.gpu.subjects import load

        bandwidth = copy_bandwidth(call.device)
        model = load("tiny" if call.is_tiny and name else name or call.options.weights, call.device)
        context, repeats = (20, 2) if call.is_tiny else (564, 40)
        sessions = (2,) if call.is_tiny else (4, 16, 64) if name else (4, 16, 64, 256)
        yield "path", type(model.native).__name__
        yield from measure(
            model, bandwidth, num_context=context, repeats=repeats, sessions=sessions
        )
        if call.device.type == "cuda":
            yield "kernels", tried(lambda: by_kernel(model, num_context=context))

    return section


def transformers(call: Call) -> Found:
    """Measure transformers' own ways beside ours."""
    from scripts.gpu.peers import compare

    yield from compare(call)


def cuts(call: Call) -> Found:
    """Look for better cuts of products."""
    from scripts.gpu.cuts import SHAPES, search

    if call.device.type != "cuda":
        yield "left out", "there is no device to time products on"
        return
    for name in SHAPES:
        yield from search(call.device, name)


def exchange(call: Call) -> Found:
    """Measure target and drafter over gRPC, placed in several ways."""
    from scripts.gpu.exchange import exchange as measure

    yield from measure(call)


def sweep(call: Call) -> Found:
    """Measure 1 to 256 sessions, greedy and sampled, with and without speculation."""
    from scripts.gpu.sweep import measure

    yield from measure(call)


def sessions(call: Call) -> Found:
    """Say what Python costs a step of many sessions, and how many messages it takes."""
    from scripts.gpu.sessions import measure

    yield from measure(call)


def host(call: Call) -> Found:
    """Say what each part of a step takes the host, and the device."""
    from scripts.gpu.host import measure
    from scripts.gpu.subjects import load

    names = ["interpreted"] if call.is_tiny else [call.options.weights, "1.5b", "8b"]
    sizes = (8, 1) if call.is_tiny else (564, 200)
    for name in names:
        model = load(name, call.device)
        yield from measure(name, model, num_context=sizes[0], repeats=sizes[1])


def ways(call: Call) -> Found:
    """Compare ways to queue a pass, model by model."""
    from scripts.gpu.ways import compare

    seconds = call.seconds_left - 5.0
    yield from compare(call.options.models, is_tiny=call.is_tiny, seconds=seconds)


SECTIONS: dict[str, tuple[Section, int]] = {
    "ways": (ways, 150),
    "identity": (identity, 120),
    "kernels": (kernels, 200),
    "exchange": (exchange, 300),
    "sweep": (sweep, 330),
    "sessions": (sessions, 90),
    "transformers": (transformers, 240),
    "host": (host, 90),
    "passes-135m": (_passes(""), 90),
    "passes-8b": (_passes("8b"), 120),
    "passes-1.5b": (_passes("1.5b"), 90),
    "cuts": (cuts, 150),
}


def main() -> int:
    """Run the sections asked for, or one of them in this process."""
    options = _parse()
    if options.here:
        with torch.no_grad():
            return _run_here(options)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    names = [n for n in options.only or SECTIONS if n not in options.skip]
    ends_at = time.monotonic() + (options.within or 1e9)
    with tempfile.TemporaryDirectory(prefix="toys-") as place:
        if options.tiny:
            _make_toys(options, Path(place))
        for name in names:
            _forget(name, out)
            print(f"{name}: {_run_apart(name, options, out, ends_at)}", flush=True)
            if options.bundle:
                join(names, out, Path(options.bundle))
    print_table(names, out)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="default", help="the small model")
    parser.add_argument("--draft", default="auto", help="drafter for the exchange")
    parser.add_argument("--out", required=True)
    parser.add_argument("--bundle", default="", help="file that all findings are joined in")
    parser.add_argument("--only", nargs="*", default=[], choices=[*SECTIONS, []])
    parser.add_argument("--skip", nargs="*", default=[], choices=[*SECTIONS, []])
    parser.add_argument("--loads", nargs="*", default=[], help="of the exchange; all by default")
    parser.add_argument("--how", default="same-gpu-in-turns", help="load that the sweep runs like")
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE for all services")
    parser.add_argument("--models", nargs="*", default=[*MODELS], help="whose ways are compared")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--limit", type=int, default=0, help="seconds a section may take")
    parser.add_argument("--within", type=int, default=0, help="seconds that all may take together")
    parser.add_argument("--here", default="", help=argparse.SUPPRESS)
    parser.add_argument("--ends-at", type=float, default=math.inf, help=argparse.SUPPRESS)
    options = parser.parse_args()
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a word on a name that nothing has: a section would only find it out later."""
    loads = [load.name for load in LOADS]
    for option, names in {"loads": options.loads, "how": [options.how]}.items():
        for name in names:
            if file_name(name) not in loads:
                parser.error(f"argument --{option}: no {name!r}; there are {', '.join(loads)}")
    for one in options.set:
        if "=" not in one:
            parser.error(f"argument --set: {one!r} is not NAME=VALUE")


def _make_toys(options: argparse.Namespace, place: Path) -> None:
    """Have the sections take toys for the small model and its drafter, unless told otherwise."""
    from treedraft.inference.toy import make_toy_model

    if options.weights == "default":
        options.weights = str(make_toy_model(place / "target", seed=0))
        options.draft = str(make_toy_model(place / "draft", seed=0))


def _forget(name: str, out: Path) -> None:
    """Remove what an earlier call found: nobody should take it for new."""
    for ending in ("json", "log"):
        (out / f"{file_name(name)}.{ending}").unlink(missing_ok=True)


def _run_apart(name: str, options: argparse.Namespace, out: Path, ends_at: float) -> str:
    limit = min(options.limit or SECTIONS[name][1], ends_at - time.monotonic() - _GRACE_SECONDS)
    if limit < _LEAST_SECONDS:
        return "left out, for want of time"
    command = [sys.executable, "-m", "scripts.gpu.prove", "--here", name, "--out", str(out)]
    command += ["--weights", options.weights, "--draft", options.draft, "--how", options.how]
    for option in ("loads", "models", "set"):
        if given := getattr(options, option):
            command += [f"--{option}", *given]
    started = time.monotonic()  # of one clock for all processes
    command += ["--ends-at", str(started + limit), *(["--tiny"] if options.tiny else [])]
    own = [str(Path(name).resolve()) for name in ("services", ".")]
    paths = [*own, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with (out / f"{file_name(name)}.log").open("w") as log:
        seconds = limit + _GRACE_SECONDS
        done = run_bounded(command, seconds, env=environment, stdout=log, stderr=log)
    ended = "ended, since it took too long" if done is None else f"exit {done.returncode}"
    return f"{ended} after {time.monotonic() - started:.0f} s"


def _run_here(options: argparse.Namespace) -> int:
    be_interrupted()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    call = Call(options, device, Path(options.out), options.ends_at)
    return 0 if keep(call, options.here, SECTIONS[options.here][0]) else 1


if __name__ == "__main__":
    sys.exit(main())
