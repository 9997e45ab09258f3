"""Resolves the lock for other interpreters and processors: `python -m tests.lock_check`.

For CPython 3.11 to 3.13 on x86-64 and arm64, uv resolves the base install and the images' extras
under `constraints.txt` from the indices that pip is configured with, wheels only. What no wheel of
these indices can install is named. It ends with `NOT_CHECKED`, never with 0, where the indices
could not be read; packages that the lock does not pin are listed (an image for a GPU has NVIDIA's
libraries, which torch itself pins exactly).
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import NamedTuple

from packaging.utils import canonicalize_name

from tests.system import PROJECT_DIR

CONSTRAINTS = PROJECT_DIR / "constraints.txt"
VERSIONS = ("3.11", "3.12", "3.13")
# the oldest C library for which all pinned packages have wheels; Debian 12 has 2.36
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")
INSTALLS = {"base": (), "train and gpu": ("train", "gpu", "fleet", "release")}
UNRESOLVED, NOT_CHECKED = 1, 75
"""Exit statuses; the second is that of a failure which may pass, such as no network."""
TIMEOUT_S = 240

_NETWORK = re.compile(
    r"Failed to fetch|error sending request|timed out|dns error|Could not connect"
)


class Case(NamedTuple):
    """One resolution."""

    install: str
    version: str
    platform: str


class Result(NamedTuple):
    """What a resolution found.

    Args:
        pinned: how many packages it needs that the lock pins.
        unpinned: the others, `name==version`.
        failure: why there is none; empty where there is one.
        checked: whether the indices could be read.
    """

    pinned: int = 0
    unpinned: tuple[str, ...] = ()
    failure: str = ""
    checked: bool = True


def pip_settings() -> dict[str, str]:
    """Return pip's settings of this machine by name, those of variables over those of files."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: dict[str, str] = {}
    for scope, name, value in re.findall(r"^(:env:|\w+)\.([\w-]+)='(.*)'$", listed, re.MULTILINE):
        if scope in (":env:", "install", "global") and (scope == ":env:" or name not in found):
            found[name] = value.replace("\\n", " ").strip()
    return found


def index_options(settings: Mapping[str, str]) -> Iterator[str]:
    """Yield uv's options for the indices of pip's settings."""
    if "index-url" in settings:
        yield from ("--default-index", settings["index-url"])
    for place in settings.get("extra-index-url", "").split():
        yield from ("--index", place)
    for place in settings.get("find-links", "").split():
        yield from ("--find-links", place)


def resolve(case: Case, settings: Mapping[str, str]) -> Result:
    """Resolve one case with uv."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet"]
    command += ["--constraint", str(CONSTRAINTS), "--only-binary", ":all:"]
    command += ["--python-version", case.version, "--python-platform", case.platform]
    # as pip: the best version of all indices; pip does not read uv's configuration either
    command += ["--index-strategy", "unsafe-best-match", "--no-config"]
    command += ["--no-header", "--no-annotate", *index_options(settings)]
    for extra in INSTALLS[case.install]:
        command += ["--extra", extra]
    certificate = {"SSL_CERT_FILE": settings["cert"]} if "cert" in settings else {}
    try:
        done = subprocess.run(
            command,
            cwd=PROJECT_DIR,
            env=os.environ | certificate,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Result(failure=f"no answer of the indices within {TIMEOUT_S} s", checked=False)
    if done.returncode:
        return failed(done.stderr)
    return compared(done.stdout, CONSTRAINTS.read_text(encoding="utf-8"))


def failed(message: str) -> Result:
    """Return the result of a resolution that failed with a message of uv."""
    lines = (re.sub(r"^[\s│╰╭├─▶×?]+", "", line) for line in message.splitlines())
    text = " ".join(filter(None, lines))
    return Result(failure=text[:600], checked=_NETWORK.search(text) is None)


def pins(text: str) -> dict[str, str]:
    """Return the versions of a file of requirements by canonical name, without local parts."""
    found = re.findall(r"^([\w.-]+)==([^\s;+]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def compared(resolved: str, lock: str) -> Result:
    """Compare what was resolved with the lock."""
    needed, locked = pins(resolved), pins(lock)
    unpinned = tuple(f"{name}=={needed[name]}" for name in sorted(needed.keys() - locked.keys()))
    return Result(len(needed) - len(unpinned), unpinned)


def judged(results: Mapping[Case, Result]) -> tuple[int, str]:
    """Return the exit status and the lines to print."""
    lines = []
    for case, result in results.items():
        place = f"CPython {case.version}, {case.platform}, {case.install}:"
        if result.failure:
            word = "NOT RESOLVED" if result.checked else "NOT CHECKED"
            lines.append(f"{place} {word}: {result.failure}")
        else:
            extra = f", not pinned: {' '.join(result.unpinned)}" if result.unpinned else ""
            lines.append(f"{place} {result.pinned} pinned packages, wheels only{extra}")
    failures = [result for result in results.values() if result.failure]
    if any(result.checked for result in failures):
        return UNRESOLVED, "\n".join(lines)
    return (NOT_CHECKED if failures else 0), "\n".join(lines)


def cases(
    installs: Iterable[str] = INSTALLS,
    versions: Iterable[str] = VERSIONS,
    platforms: Iterable[str] = PLATFORMS,
) -> list[Case]:
    """Return the cases to resolve."""
    return [Case(*each) for each in product(installs, versions, platforms)]


def main() -> int:
    """Resolve every case, print what was found, and return the exit status."""
    settings = pip_settings()
    status, text = judged({case: resolve(case, settings) for case in cases()})
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
