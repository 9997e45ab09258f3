"""Opens the database of the settings: the DSN when it is set, else the local server.

Opening does nothing yet; the local server starts at the first call.
"""

from functools import partial
from pathlib import Path

from app.core.settings import Settings
from app.store.embedded.server import ensure_embedded
from app.store.pool import PoolLimits
from app.store.store import Store

EMBEDDED_DIRECTORY = "postgres"


def embedded_directory(settings: Settings) -> Path:
    """Return the directory of the local server."""
    return settings.var_dir / EMBEDDED_DIRECTORY


def open_store(settings: Settings, limits: PoolLimits | None = None) -> Store:
    """Return the store of the settings.

    Args:
        settings: `dsn`, or `var_dir` of the local server; `pool_size` and `statement_cache_size`
            apply when no limits are given.
        limits: connections and time limits.
    """
    limits = limits or PoolLimits(
        max_size=settings.pool_size, statement_cache_size=settings.statement_cache_size
    )
    if settings.dsn is not None:
        return Store(settings.dsn.get_secret_value(), limits)
    return Store(partial(ensure_embedded, embedded_directory(settings)), limits)
