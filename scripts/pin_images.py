"""Writes what images get of packages that constraints.txt does not name.

constraints.txt pins what treedraft itself asks for; what those packages ask for
in turn is pinned here, at the versions of the environment that runs this, which
should be the one that the suite was run with. CUDA's libraries are not here: each
version of torch asks for exactly one of each.
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "deploy" / "docker" / "transitive.txt"
EXTRAS = ("autoscaler", "inference")
# The authorities of the web change, and the newest list is the right one; the others are pip's own.
_UNPINNED = {"certifi", "pip", "setuptools"}
_HEAD = (
    "# What the packages of constraints.txt need in turn; written by scripts/pin_images.py.\n"
    "# It is for images, which should come out the same whenever they are built.\n"
)


def main() -> int:
    """Write the file; return the exit status."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = list(project["dependencies"])
    for extra in EXTRAS:
        asked += project["optional-dependencies"].get(extra, [])
    found = closure([Requirement(text) for text in asked])
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    lines = [
        f"{name}=={version}\n"
        for name, version in sorted(found.items())
        if name not in {canonical(known) for known in pinned} | _UNPINNED
    ]
    PINS.write_text(_HEAD + "".join(lines), encoding="utf-8")
    return 0


def closure(asked: list[Requirement]) -> dict[str, str]:
    """Return the versions of all packages that these need, by name."""
    found: dict[str, str] = {}
    while asked:
        requirement = asked.pop()
        name = canonical(requirement.name)
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
        ):
            continue
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        is_new = name not in found
        found[name] = installed.version.partition("+")[0]
        if is_new or requirement.extras:
            for text in installed.requires or ():
                needed = Requirement(text)
                if applies(needed, requirement.extras) and canonical(needed.name) not in found:
                    asked.append(Requirement(text.partition(";")[0]))
    return found


def applies(needed: Requirement, extras: set[str]) -> bool:
    """Return whether a package with those extras needs it here."""
    marker = needed.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def canonical(name: str) -> str:
    """Return the name as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
