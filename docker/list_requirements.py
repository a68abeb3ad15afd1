"""Prints the requirements that `pyproject.toml` names, without building the package: run by both Dockerfiles.

    python list_requirements.py pyproject.toml cpu train

An image layer made from this list outlives every change of the source, so that an edit costs seconds and not
the download of torch.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def list_requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Return the dependencies of the project and of the named extras, in the order of the file.

    Raises:
        ValueError: If an extra is not one of the project's.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    if unknown := [extra for extra in extras if extra not in optional]:
        raise ValueError(f"no such extra: {', '.join(unknown)}; the project has {', '.join(sorted(optional))}")
    return [*project["dependencies"], *(line for extra in extras for line in optional[extra])]


if __name__ == "__main__":
    print(*list_requirements(Path(sys.argv[1]), sys.argv[2:]), sep="\n")
