"""Runs the chaos suite: `python -m tests.chaos [FAULT ...]`, by default every fault.

Without names the result is written to `docs/reference/measured/chaos.json`, of which
`python -m tests.docs.generate` makes the table of the page on resilience; with names it goes to
`--out`, or to the screen. A fault that the service does not survive ends the system, and the next
fault gets a new one.
"""

import argparse
import json
import os
import platform
import sys
import traceback
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tests.chaos.faults  # noqa: F401 - registers the faults
from tests.chaos.harness import FAULTS, Arena, arena, measure
from tests.system import PROJECT_DIR

OUT = PROJECT_DIR / "docs/reference/measured/chaos.json"


STARTS = 4
"""Attempts to start the system: Ray has fixed times for it, which a loaded machine may exceed."""


def _started(stack: ExitStack, variables: dict[str, str]) -> Arena:
    for attempt in range(1, STARTS + 1):
        try:
            return stack.enter_context(arena(**variables))
        except AssertionError:
            if attempt == STARTS:
                raise
            traceback.print_exc(limit=1)
    raise AssertionError("expected a system")


def run(names: list[str], out: Path | None) -> bool:
    """Run faults by name, and write after each; return whether the service held all of them."""
    lines: dict[str, dict[str, Any]] = {}
    if out is not None and out.exists():
        lines = {each["name"]: each for each in json.loads(out.read_text())["faults"]}
    current: Arena | None = None
    of_current: dict[str, str] = {}
    held = True
    with ExitStack() as stack:
        for name in names:
            fault = FAULTS[name]
            if current is None or of_current != fault.variables:
                stack.close()
                current, of_current = _started(stack, fault.variables), fault.variables
            print(f"{datetime.now(UTC):%H:%M:%S} {fault.name} ...", flush=True)
            try:
                result = measure(current, fault)
            except Exception:  # noqa: BLE001 - of the suite; the other faults are measured
                traceback.print_exc()
                held, current = False, None
                continue
            line = {"name": name} | asdict(result) | {"findings": result.findings}
            lines[name] = line
            held = held and not result.findings
            print(json.dumps(line, indent=1), flush=True)
            if result.recovery_s is None or result.lost < 0:
                current = None
            if out is not None:
                order = {known: number for number, known in enumerate(FAULTS)}
                faults = sorted(lines.values(), key=lambda each: order[each["name"]])
                machine = {"cores": os.cpu_count(), "system": platform.platform()}
                found = {"machine": machine, "faults": faults}
                out.write_text(json.dumps(found, indent=1) + "\n")
    return held


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], help="default: all")
    parser.add_argument("--out", type=Path, help="JSON file; default: the measured one, if all run")
    options = parser.parse_args()
    names = options.faults or list(FAULTS)
    out = options.out or (None if options.faults else OUT)
    sys.exit(0 if run(names, out) else 1)


if __name__ == "__main__":
    main()
