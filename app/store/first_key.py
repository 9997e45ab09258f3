"""The key that a first start makes, so that nobody runs the service without keys.

Invariant: the secret is written to one file of mode 0600 and nowhere else; the store has its hash, and only after the file was
written.
"""

import asyncio
import fcntl
import logging
import os
import tempfile
from pathlib import Path
from typing import IO

from app.core.settings import Settings
from app.store.keys import SCOPES, new_secret
from app.store.store import Store

logger = logging.getLogger(__name__)

FILE_NAME = "api_key"
LOCK_POLL_S = 0.05


async def ensure_first_key(store: Store, settings: Settings) -> None:
    """Make an admin key when the store has no key at all and the environment gives none.

    Args:
        store: migrated.
        settings: `var_dir` is where the key is written; an `api_key` in the environment makes it needless.

    Raises:
        StoreError: the store did not answer.
        OSError: the file can't be written.
    """
    if settings.api_key is not None:
        return
    settings.var_dir.mkdir(parents=True, exist_ok=True)
    path = settings.var_dir / FILE_NAME
    with (settings.var_dir / f"{FILE_NAME}.lock").open("a") as lock:
        while not _locked(lock):
            await asyncio.sleep(LOCK_POLL_S)
        if await store.any_key():
            return
        secret = new_secret()
        # The file comes first: a key whose file could not be written, or whose answer was lost, would lock everybody out.
        _write_private(path, secret)
        await store.create_key("first start", SCOPES, secret)
    logger.info(
        "first key made", extra={"file": str(path), "use": f"Authorization: Bearer $(cat {path})"}
    )


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_private(path: Path, secret: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
