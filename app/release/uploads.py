"""Receives uploaded archives of checkpoints and registers them in a process of its own.

Invariant: an archive is never in memory whole, and its file is removed when its registration ends.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from app.core import errors
from app.core.settings import PROJECT_DIR, Settings
from app.release.archive import MAX_BYTES
from app.schemas.releases import UploadAnswer

DIRECTORY = "uploads"
"""Of archives, under `var/`."""
OLD_S = 86_400.0
"""Age of archives that a killed process left."""
REGISTER_S = 600.0
_BUFFER_BYTES = 1024 * 1024
_SUFFIX = ".upload"


async def receive(body: AsyncIterator[bytes], var_dir: Path) -> Path:
    """Write the body of a request to a file and return its path.

    Raises:
        LimitExceeded: it is longer than `MAX_BYTES`.
        InputError: it is empty.
        ClientDisconnect: the client disconnected before the end of the body.
    """
    directory = var_dir / DIRECTORY
    await asyncio.to_thread(_prepare, directory)
    descriptor, name = tempfile.mkstemp(suffix=_SUFFIX, dir=directory)
    try:
        with os.fdopen(descriptor, "wb", buffering=_BUFFER_BYTES) as file:
            await _write(body, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


async def _write(body: AsyncIterator[bytes], file: IO[bytes]) -> None:
    size = 0
    async for part in body:
        size += len(part)
        if size > MAX_BYTES:
            raise errors.LimitExceeded(
                f"expected an archive of at most {MAX_BYTES} bytes, found more: upload one "
                "checkpoint",
                "body",
            )
        await asyncio.to_thread(file.write, part)
    if not size:
        raise errors.InputError(
            "expected the archive of a checkpoint as the body, found none: send it with "
            "`curl --data-binary @FILE`",
            "body",
        )


def digest_of(archive: Path) -> str:
    """Return the SHA-256 of an archive."""
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def register(archive: Path, settings: Settings) -> UploadAnswer:
    """Register an archive's checkpoint with `app.release.registration`, and remove the archive.

    Raises:
        HydraulicDiagnosticsError: it can't be registered.
    """
    given = {"HYDRAULIC_VAR_DIR": str(settings.var_dir.resolve())}
    if settings.dsn is not None:
        given["HYDRAULIC_DSN"] = settings.dsn.get_secret_value()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.release.registration",
            str(archive.resolve()),
            cwd=PROJECT_DIR,
            env=os.environ | given,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(REGISTER_S):
                output, trouble = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
    except TimeoutError as error:
        raise errors.ReleaseError(
            f"expected the registration to end within {REGISTER_S:g} s, found it still running: "
            "does the registry answer?"
        ) from error
    finally:
        archive.unlink(missing_ok=True)
    return _answer(output, trouble)


def _answer(output: bytes, trouble: bytes) -> UploadAnswer:
    try:
        found = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise errors.ReleaseError(
            "expected the registration to answer, found: "
            f"{trouble.decode(errors='replace').strip()[-300:]}"
        ) from error
    if "version" not in found:
        kind = getattr(errors, found["kind"], errors.ReleaseError)
        raise kind(found["error"], found["field"])
    return UploadAnswer.model_validate({"state": "done", **found})


def _prepare(directory: Path) -> None:
    """Make the directory, and remove what killed processes left in it."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - OLD_S:
                path.unlink()
