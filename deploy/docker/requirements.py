"""Prints what an image installs: `requirements.py [EXTRA…]`, `requirements.py --constraints`.

pip installs a package with its dependencies or without; an image wants the
dependencies alone, in a layer of their own. Their versions are those of
constraints.txt, and of transitive.txt for what that file does not name.
"""

import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str]) -> list[str]:
    """Return what the package asks for, with these extras."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sum(
        (project["optional-dependencies"][extra] for extra in extras), project["dependencies"]
    )


def constraints() -> list[str]:
    """Return one pin for each package that either file names."""
    pins: dict[str, str] = {}
    for name in ("transitive.txt", "constraints.txt"):
        for line in Path(name).read_text(encoding="utf-8").splitlines():
            if "==" in line and not line.startswith("#"):
                pins[line.partition("==")[0].lower()] = line
    return [pins[name] for name in sorted(pins)]


if __name__ == "__main__":
    arguments = sys.argv[1:]
    print(*(constraints() if arguments == ["--constraints"] else requirements(arguments)), sep="\n")
