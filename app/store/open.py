"""Which database the environment means: the DSN when it is set, else the local server.

Invariant: opening does nothing yet; the local server is started when the first call needs it.
"""

from functools import partial
from pathlib import Path

from app.core.settings import Settings
from app.store.embedded.server import ensure_embedded
from app.store.pool import PoolLimits
from app.store.store import Store

EMBEDDED_DIRECTORY = "postgres"


def embedded_directory(settings: Settings) -> Path:
    """Return where the local server lives."""
    return settings.var_dir / EMBEDDED_DIRECTORY


def open_store(settings: Settings, limits: PoolLimits | None = None) -> Store:
    """Return the store that the environment means.

    Args:
        settings: `dsn`, or `var_dir` for the local server; `pool_size` and `statement_cache_size` count when no limits are given.
        limits: connections and times.
    """
    limits = limits or PoolLimits(
        max_size=settings.pool_size, statement_cache_size=settings.statement_cache_size
    )
    if settings.dsn is not None:
        return Store(settings.dsn.get_secret_value(), limits)
    return Store(partial(ensure_embedded, embedded_directory(settings)), limits)
