"""One process of a run: its own connections, its own weights, and pages to score as Ray Data hands them over.

Ray Data calls it from a few threads, so that a page is read and written while another one is computed; all of them share one
event loop in a thread of its own, to which the connections belong. Invariant: what it returns is small columns, one row a
machine; diagnoses go to the database and nowhere else.
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
from app.store.open import open_store
from app.store.pool import PoolLimits

PAGE = "page"
PAGES_AT_ONCE = 2
RETRY_S = 60.0
"""How long a page waits for a database that is away before the run ends; nobody waits for a single answer here."""

Columns = dict[str, NDArray[Any]]


class FleetWorker:
    """Scores pages in one process.

    Args:
        settings: which database; those of the process that started the run.
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
        """Score one row's page; one row for each machine comes back, or one that says with which error the run ends."""
        (text,) = rows[PAGE]
        page = Page.model_validate_json(text)
        try:
            return columns_of(
                asyncio.run_coroutine_threadsafe(self._scorer.score_page(page), self._loop).result()
            )
        except HydraulicDiagnosticsError as error:
            # raised, it would be tried again by Ray, and reach the other side as text
            return columns_of([Outcome("", "ended", type(error).__name__, error.message)])


def columns_of(outcomes: list[Outcome]) -> Columns:
    """Return outcomes as columns by the names of their fields."""
    return {
        # of a type also when a page has no machine any more
        name: np.array(
            [getattr(outcome, name) for outcome in outcomes], float if name == "compute_s" else str
        )
        for name in Outcome._fields
    }
