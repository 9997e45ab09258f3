"""Splits traffic repeatedly, killed with SIGKILL one traced line later each time.

`python killed_writer.py PATH`. The traced lines are those of the command and of the file: each
write, sync and rename has its own. After each kill the file must hold the old or the new text, and
the next command must work. Prints the number of steps, and how often each text was found.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from app.release import operations, transaction
from app.release.config import file as config_file
from app.release.config.edits import with_weights
from app.release.config.file import ConfigFile
from tests.app.release.fake_cluster import FakeCluster, MemoryHistory, releases_on

STEPS = {
    config_file.__file__: {"locked", "_open_lock", "replace", "_write", "_sync_directory"},
    operations.__file__: {"_move"},
    transaction.__file__: {
        "locked",
        "replace",
        "replace_traffic",
        "follow",
        "_apply",
        "wait_traffic",
    },
}


# short, since it is parsed some hundred times
TEXT = """applications:
  - name: diagnostics
    import_path: app.main:diagnostics
    deployments:
      - name: Ingress
        user_config:
          traffic:
            releases:
              - {version: "1", application: model-1, weight: 100}
              - {version: "2", application: model-2, weight: 0}
  - {name: model-1, import_path: "app.main:model", args: {checkpoint: app/weights/1}}
  - {name: model-2, import_path: "app.main:model", args: {checkpoint: app/weights/2}}
"""


def killer(at: int) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that kills this process at a line."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_name not in STEPS.get(frame.f_code.co_filename, ()):
            return None
        if event == "line":
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def split(path: Path, second: float) -> None:
    """Split the traffic on a fake cluster, as `split 1=... 2=...` does."""
    releases = releases_on(FakeCluster(), path, MemoryHistory(), [])  # type: ignore[arg-type]
    asyncio.run(releases.split({"1": 100 - second, "2": second}))


def main(path: Path) -> None:
    """Kill at every line until the command completes."""
    after = with_weights(TEXT, {"1": 50, "2": 50})
    found = {TEXT: 0, after: 0}
    # edited once: tracing makes it slow
    edited = {(TEXT, 50.0): after}
    edited |= {(text, 20.0): with_weights(text, {"1": 80, "2": 20}) for text in found}
    operations.with_weights = lambda text, weights: edited[text, weights["2"]]
    step, status = 0, 1
    while status != 0:
        step += 1
        path.write_text(TEXT)
        child = os.fork()
        if child == 0:
            sys.settrace(killer(step))
            split(path, 50)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        text = path.read_text()
        assert text in found, f"after step {step} the file is neither the old nor the new one"
        found[text] += 1
        split(path, 20)
        weights = [release.weight for release in ConfigFile(path).read().config.traffic.releases]
        assert weights == [80, 20], f"after step {step} the next command left {weights}"
    sys.stdout.write(f"{step} {found[TEXT]} {found[after]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
