"""One worker process of a run, with its own connections and weights; Ray Data sends it pages.

Ray Data calls it from a few threads, so that a page is read and written while another is computed.
They share one event loop in its own thread, to which the connections belong. It returns small
columns, one row a machine; diagnoses go to the database alone.
"""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core.errors import HydraulicDiagnosticsError
from app.core.settings import Settings
from app.fleet.plan import Plan
from app.fleet.scorer import FleetScorer, Outcome
from app.serving.observability.logging import configure_logging
from app.store.fleet import FleetRun, Page
from app.store.pool import PoolLimits
from app.store.store import open_store

PAGE = "page"
PAGES_AT_ONCE = 2
RETRY_S = 60.0
"""How long a page waits for a database that is away before the run ends."""

Columns = dict[str, NDArray[Any]]


class FleetWorker:
    """Scores pages in one process.

    Args:
        settings: of the process that started the run.
        run: whose diagnoses are stored.
        plan: of the run.
        batch: most graphs of a forward pass.
    """

    def __init__(self, settings: Settings, run: FleetRun, plan: Plan, batch: int) -> None:
        configure_logging(settings.log_level)
        limits = PoolLimits(
            max_size=3 * PAGES_AT_ONCE,
            retry_s=RETRY_S,
            statement_cache_size=settings.statement_cache_size,
        )
        self._scorer = FleetScorer(open_store(settings, limits), run, plan, batch, "auto")
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="store", daemon=True).start()

    def __call__(self, rows: Mapping[str, NDArray[np.object_]]) -> Columns:
        """Score the page of one row; return a row a machine, or the error that ends the run."""
        (text,) = rows[PAGE]
        page = Page.model_validate_json(text)
        try:
            return columns_of(
                asyncio.run_coroutine_threadsafe(self._scorer.score_page(page), self._loop).result()
            )
        except HydraulicDiagnosticsError as error:
            # if it were raised, Ray would retry it, and pass it on as text
            return columns_of([Outcome("", "ended", type(error).__name__, error.message)])


def columns_of(outcomes: list[Outcome]) -> Columns:
    """Return outcomes as columns by the names of their fields."""
    return {
        # typed also when a page has no machine any more
        name: np.array(
            [getattr(outcome, name) for outcome in outcomes], float if name == "compute_s" else str
        )
        for name in Outcome._fields
    }
