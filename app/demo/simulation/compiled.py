"""Compiles functions by numba and caches the machine code per version of the sources.

numba renews its cache when the file of a function changes, not when a function that it calls
changes; the name of the cache folder therefore has the digest of all sources that are compiled.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])

_SOURCES = ("compiled", "flows", "kernel", "layout", "physics", "readout")


def _digest() -> str:
    texts = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in _SOURCES)
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]


def _cache_folder() -> str:
    beside = Path(__file__).parent / "__pycache__"
    try:
        beside.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=beside):
            return str(beside / f"kernel-{_digest()}")
    except OSError:
        return str(Path.home() / ".cache" / "hydraulic-diagnostics" / f"kernel-{_digest()}")


_FOLDER = _cache_folder()


def compiled(function: F) -> F:
    """Compile a function that frees Python's lock, without reordering of operations."""
    # numba has no argument for the folder of a cache; it reads this when it decorates
    config = vars(numba.config)
    before = config["CACHE_DIR"]
    config["CACHE_DIR"] = _FOLDER
    try:
        made = numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")(function)
    finally:
        config["CACHE_DIR"] = before
    return cast("F", made)
