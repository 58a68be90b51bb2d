"""Drafters that come with treedraft, and which one a target gets.

A shipped drafter is a drafter folder inside the package, made for one target
and checked against it when it is loaded. `auto` names the one of a target;
where there is none, lookup drafts. Imports nothing heavy, so that a command
line can ask before anything is loaded.
"""

from pathlib import Path

AUTO = "auto"
LOOKUP = "lookup"
DEFAULT_TARGET = "default"

SHIPPED_FOLDER = Path(__file__).resolve().parent.parent / "drafters"
# By the target's name: the name of its drafter and of the drafter's folder.
_DRAFTER_OF_TARGET = {"smollm2-135m-instruct": "smollm2-135m-drafter"}
_TARGETS_OF_OTHER_NAME = {
    DEFAULT_TARGET: "smollm2-135m-instruct",
    "huggingfacetb/smollm2-135m-instruct": "smollm2-135m-instruct",
}


def choose_drafter(draft: str, target: str, *, shipped: Path = SHIPPED_FOLDER) -> str:
    """Return the source of the draft model, empty where lookup drafts alone.

    Args:
        draft: `auto`, `lookup`, empty (as `lookup`), or a source of a model.
        target: source or name of the target.
        shipped: where shipped drafters lie.
    """
    if draft.lower() != AUTO:
        return "" if draft.lower() == LOOKUP else draft
    name = target.lower()
    drafter = _DRAFTER_OF_TARGET.get(_TARGETS_OF_OTHER_NAME.get(name, name))
    return drafter if drafter and shipped_drafter(drafter, shipped=shipped) else ""


def shipped_drafter(source: str, *, shipped: Path = SHIPPED_FOLDER) -> Path | None:
    """Return the folder of a shipped drafter by its name, None if there is none of that name."""
    name = source.lower()
    folder = shipped / name
    is_shipped = name in _DRAFTER_OF_TARGET.values() and (folder / "drafter.json").is_file()
    return folder if is_shipped else None


def describe_drafter(draft: str) -> str:
    """Return in words what drafts, for people who read results."""
    return f"draft model {draft}" if draft else "drafts by lookup"
