"""Prints what the package needs, with those extras: `requirements.py [EXTRA…]`.

pip installs a package with its dependencies or without; an image wants the
dependencies alone, in a layer of their own.
"""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Print one requirement a line."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    print(*project["dependencies"], sep="\n")
    for extra in sys.argv[1:]:
        print(*project["optional-dependencies"][extra], sep="\n")


if __name__ == "__main__":
    main()
