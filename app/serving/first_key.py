"""The key that a first start makes, so that nobody runs the service without keys.

Invariant: the secret is written to one file of mode 0600 and nowhere else; the store has its hash.
"""

import fcntl
import logging
import os
from pathlib import Path

from app.settings import Settings
from app.store.keys import SCOPES
from app.store.store import Store

logger = logging.getLogger(__name__)

FILE_NAME = "api_key"


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
        fcntl.flock(lock, fcntl.LOCK_EX)
        if await store.any_key():
            return
        created = await store.create_key("first start", SCOPES)
        _write_private(path, created.secret)
    logger.info("first key made", extra={"file": str(path), "use": f"Authorization: Bearer $(cat {path})"})


def _write_private(path: Path, secret: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(secret + "\n")
