"""The API key that the first start creates, so that the service never runs without keys.

Invariant: the secret is written to one file of mode 0600 and nowhere else, before the store gets
its hash.
"""

import asyncio
import logging
import os
import tempfile
from pathlib import Path

from app.core.file_locks import open_lock, try_lock
from app.core.settings import Settings
from app.store.keys import SCOPES, new_secret
from app.store.store import Store

logger = logging.getLogger(__name__)

FILE_NAME = "api_key"
LOCK_POLL_S = 0.05


async def ensure_first_key(store: Store, settings: Settings) -> None:
    """Create an admin key when the store has no key and the environment gives none.

    Args:
        store: migrated.
        settings: the key is written to `var_dir`; with an `api_key` none is created.

    Raises:
        StoreError: the store did not answer.
        OSError: the file can't be written.
    """
    if settings.api_key is not None:
        return
    settings.var_dir.mkdir(parents=True, exist_ok=True)
    path = settings.var_dir / FILE_NAME
    lock_fd = open_lock(settings.var_dir / f"{FILE_NAME}.lock")
    try:
        while not try_lock(lock_fd):
            await asyncio.sleep(LOCK_POLL_S)
        if await store.any_key():
            return
        secret = new_secret()
        # the file comes first: a key that is stored but was never written would lock everybody out
        _write_private(path, secret)
        await store.create_key("first start", SCOPES, secret)
    finally:
        os.close(lock_fd)
    logger.info(
        "first key made", extra={"file": str(path), "use": f"Authorization: Bearer $(cat {path})"}
    )


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
