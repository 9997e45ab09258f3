"""Prints the requirements of an image, from the project's metadata: `requirements.py serve cpu`.

`serve` is the base install, which has no torch, with what offline scoring needs; on a GPU it has
the extra `gpu` too. `train` has what training and offline scoring need. It runs alone, before
anything is installed.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXTRAS = {
    ("serve", "cpu"): ("fleet",),
    ("serve", "cuda"): ("fleet", "gpu"),
    ("train", "cpu"): ("train", "fleet"),
    ("train", "cuda"): ("train", "fleet", "gpu"),
}
"""By target and device of the image."""


def requirements(project: dict[str, Any], target: str, device: str) -> list[str]:
    """Return the requirements of an image, without duplicates.

    Args:
        project: the table `project` of pyproject.toml.
        target: serve or train.
        device: cpu or cuda.

    Raises:
        SystemExit: there is no such image.
    """
    if (target, device) not in EXTRAS:
        known = ", ".join(" ".join(image) for image in EXTRAS)
        raise SystemExit(
            f"expected one of the images {known}, found '{target} {device}': correct the target or "
            "the build argument DEVICE"
        )
    found = list(project["dependencies"])
    for extra in EXTRAS[target, device]:
        found += _of_extra(project, extra)
    return list(dict.fromkeys(found))


def _of_extra(project: dict[str, Any], extra: str) -> Iterator[str]:
    """Yield what an extra needs; another extra of the project is replaced by what it needs."""
    for requirement in project["optional-dependencies"][extra]:
        own = re.fullmatch(rf"{re.escape(project['name'])}\[([\w-]+)\]", requirement)
        if own is None:
            yield requirement
        else:
            yield from _of_extra(project, own[1])


def main(target: str, device: str) -> None:
    """Print the requirements, one a line."""
    metadata = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text("utf-8"))
    print(*requirements(metadata["project"], target, device), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
