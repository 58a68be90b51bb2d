"""What people would type: the examples below each command's help.

A test parses every one of them, so an option that goes takes its example along.
"""

from collections.abc import Mapping
from typing import Final

EXAMPLES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "demo": (
        ("treedraft demo", "three prompts, without and with speculation"),
        ("treedraft demo --temperature 0.8 --seed 3", "sampled: the same words, still"),
    ),
    "up": (
        ("treedraft up", "one target, one drafter, on port 50050"),
        ("treedraft up --num-drafters 2 --metrics-port 9464", "two drafters, and metrics"),
        ("treedraft up --target my-model --draft my-drafter", "models of your own"),
    ),
    "chat": (
        ("treedraft chat", "with a cluster of its own"),
        ("treedraft chat --endpoint 127.0.0.1:50050", "at one that runs"),
        ("treedraft chat --system 'Answer in one sentence.' --temperature 0", "greedy, and short"),
    ),
    "generate": (
        ("treedraft generate 'Why is the sky blue?'", "one answer"),
        ("treedraft generate --raw 'def quicksort(' --max-tokens 64", "goes on with the text"),
        (
            "treedraft generate - --json --endpoint 127.0.0.1:50050",
            "prompt from stdin, for scripts",
        ),
        ("treedraft generate 'Hi' --seed 7 --no-speculation", "the same text, one token a pass"),
    ),
    "models": (("treedraft models --endpoint 127.0.0.1:50050", "what is served, and by whom"),),
    "top": (
        ("treedraft top", "a cluster on this machine, every two seconds"),
        ("treedraft top --once --json", "one look, for scripts"),
    ),
    "trace": (
        ("treedraft trace", "the requests of late"),
        ("treedraft trace 4f2a", "one of them, by the beginning of its id"),
        ("treedraft trace 4f2a --rows 200", "with all its rounds"),
        ("treedraft trace 4f2a --html trace.html", "as a page to keep or send"),
    ),
    "coordinator": (
        ("treedraft coordinator --port 50050", "sessions are kept in the process"),
        ("treedraft coordinator --redis redis://store:6379/0", "and shared with others"),
    ),
    "target": (
        ("treedraft target --model default --coordinator 127.0.0.1:50050", "on this machine"),
        ("treedraft target --model my-model --dtype bfloat16 --set budget.max_nodes=16", "tuned"),
    ),
    "draft": (
        ("treedraft draft --model auto --coordinator 127.0.0.1:50050", "the shipped drafter"),
        ("treedraft draft --model lookup --coordinator 127.0.0.1:50050", "no model at all"),
    ),
    "tune": (
        ("treedraft tune", "the shipped drafter and lookup, on prompts of ours"),
        ("treedraft tune --prompts mine.txt --draft my-drafter", "on yours"),
    ),
    "simulate": (
        ("treedraft simulate", "a made-up day against the autoscaler's policy and its rivals"),
        ("treedraft simulate --trace mine.csv --plot day.svg", "your own traffic, drawn"),
    ),
    "judge": (("treedraft judge --draft auto", "how often it is right, and what it costs"),),
    "distill": (
        ("treedraft distill --target my-model --out my-drafter", "goes on where it was broken off"),
    ),
    "fetch": (("treedraft fetch default", "98 MB, once"),),
}


def epilog(command: str) -> str | None:
    """Return the examples of a command as they stand below its help."""
    examples = EXAMPLES.get(command)
    if not examples:
        return None
    width = max(len(line) for line, _ in examples)
    lines = (f"  {line:<{width}}  # {comment}" for line, comment in examples)
    return "\b\nExamples:\n" + "\n".join(lines)
