"""Where jobs leave their metrics: text files that the service adds to its own metrics.

A job such as a training has no port and ends; its figures outlive it in a file.
"""

import time
from pathlib import Path

TEXT_FILES = "metrics"
"""Directory of the files, under `var`."""
SUFFIX = ".prom"
KEPT_S = 3_600.0
"""How long after its last change a file is read."""
MAX_FILE_BYTES = 1_000_000
MAX_FILES = 20


def write_text_file(path: Path, text: bytes) -> None:
    """Write metrics in the Prometheus text format, all at once.

    Args:
        path: in a directory that may not exist yet.
        text: of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(text)
    partial.replace(path)


def read_text_files(directory: Path) -> list[bytes]:
    """Return the newest files; one that is old or too large is left out, an old one is removed."""
    newest = sorted(directory.glob(f"*{SUFFIX}"), key=_changed, reverse=True)
    texts: list[bytes] = []
    for path in newest:
        if time.time() - _changed(path) > KEPT_S:
            path.unlink(missing_ok=True)
        elif len(texts) < MAX_FILES and _bytes(path) <= MAX_FILE_BYTES:
            texts.append(path.read_bytes())
    return texts


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # removed by another replica
        return 0.0


def _bytes(path: Path) -> int:
    return path.stat().st_size
