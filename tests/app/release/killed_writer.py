"""Replaces a file over and over, killed with SIGKILL one line of `config_file` later each time: `python -m ... PATH`.

Prints how many steps there were, and how often the old and the new text was found afterwards; fails when anything else was.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from app.release import config_file
from app.release.config_file import ConfigFile
from app.release.edits import with_weights

STEPS = {"exclusive", "_lock", "replace", "_write", "_sync_directory"}


def killer(at: int) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that kills this process at a line."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != config_file.__file__ or frame.f_code.co_name not in STEPS:
            return None
        if event == "line":
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def main(path: Path) -> None:
    """Kill at every line until the writer comes through."""
    file = ConfigFile(path)
    before = file.read()
    after = with_weights(before.text, {"1": 50, "2": 50})
    found = {before.text: 0, after: 0}
    step, status = 0, 1
    while status != 0:
        step += 1
        path.write_text(before.text)
        child = os.fork()
        if child == 0:
            sys.settrace(killer(step))
            with file.exclusive("the one that is killed"):
                file.replace(before, after)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        text = path.read_text()
        assert text in found, f"after step {step} the file is neither the old nor the new one"
        found[text] += 1
    sys.stdout.write(f"{step} {found[before.text]} {found[after]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
