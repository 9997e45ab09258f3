"""What the environment is made of, and what is known against it: `python -m tests.supply_chain`.

`sbom` writes a CycloneDX bill of materials of the installed packages, offline. `audit` compares the
pinned versions with the vulnerabilities that PyPI knows; where it can't look all of them up it says
so and ends with `NOT_AUDITED`, never with 0.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.system import PROJECT_DIR

CONSTRAINTS = PROJECT_DIR / "constraints.txt"
SBOM = PROJECT_DIR / "var" / "sbom.json"
VULNERABLE, NOT_AUDITED = 1, 75
"""Exit statuses; the second is that of a failure which may pass, such as no network."""

_AUDIT = (
    sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps",
    "--disable-pip", "--progress-spinner", "off", "--format", "json",
)  # fmt: skip


def write_sbom(path: Path) -> None:
    """Write the bill of materials of this environment as CycloneDX JSON.

    Raises:
        CalledProcessError: an installed package does not describe itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cyclonedx_py", "environment", sys.prefix]
    command += ["--pyproject", str(PROJECT_DIR / "pyproject.toml"), "--output-reproducible"]
    command += ["--output-format", "JSON", "--output-file", str(path)]
    subprocess.run(command, check=True, capture_output=True)


def audit(command: Sequence[str] = _AUDIT) -> tuple[int, str]:
    """Audit the pinned versions; return the exit status and what to print."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return NOT_AUDITED, f"NOT AUDITED: expected an answer of PyPI, found: {reason[:300]}"
    return judged(found)


def judged(dependencies: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """Return the exit status and the text for what pip-audit found."""
    known = [
        f"{each['name']} {each['version']}: {item['id']}, mended in "
        f"{', '.join(item['fix_versions']) or 'no version'}"
        for each in dependencies
        for item in each.get("vulns", ())
    ]
    skipped = [each["name"] for each in dependencies if "skip_reason" in each]
    if known:
        return VULNERABLE, "\n".join(known)
    if skipped or not dependencies:
        return NOT_AUDITED, (
            f"NOT AUDITED: expected PyPI's vulnerabilities of {len(dependencies)} packages, found "
            f"none to read of {len(skipped)} ({', '.join(skipped[:5])} ...): run this where "
            "https://pypi.org/pypi can be reached"
        )
    return 0, f"no known vulnerability in {len(dependencies)} packages"


def main() -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("sbom", "audit"))
    if parser.parse_args().command == "sbom":
        write_sbom(SBOM)
        print(f"wrote {SBOM.relative_to(PROJECT_DIR)}")
        return 0
    status, text = audit()
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
