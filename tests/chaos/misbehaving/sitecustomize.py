"""Makes a replica hang or leak when the chaos suite writes a file.

The suite puts this directory on the path of its system; Python imports a module of this name at
start. A process whose title has the name of a deployment looks four times a second for
`hang-DEPLOYMENT` (stop executing Python for so many seconds) and `leak-DEPLOYMENT` (keep so many
MiB) in the directory `CHAOS_DIR`. The first that finds a file removes it and obeys.
"""

import ctypes
import os
import sys
import threading
import time
from pathlib import Path

PERIOD_S = 0.25
_kept: list[bytearray] = []


def _watch(directory: Path) -> None:
    while True:
        time.sleep(PERIOD_S)
        try:
            title = Path("/proc/self/cmdline").read_bytes().decode(errors="replace")
            for path in directory.glob("*-*"):
                what, _, name = path.name.partition("-")
                if f":{name}" not in title:
                    continue
                amount = float(path.read_text())
                path.rename(directory / f"done.{what}.{name}.{os.getpid()}")
                if what == "hang":
                    # a call by PyDLL keeps the interpreter lock: no thread runs
                    ctypes.PyDLL(None).usleep(int(amount * 1e6))
                elif what == "leak":
                    _kept.append(bytearray(os.urandom(1 << 20) * int(amount)))
        except (OSError, ValueError):
            continue


if "CHAOS_DIR" in os.environ and "default_worker" in " ".join(sys.orig_argv):
    threading.Thread(target=_watch, args=(Path(os.environ["CHAOS_DIR"]),), daemon=True).start()
