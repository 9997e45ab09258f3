"""Runs the pages of a run with Ray Data, on workers with their own weights and connections.

Only pages (two ids, or some hundred) are sent to the workers, and small rows back, one a machine;
diagnoses go to the database alone, and memory does not grow with the fleet. A cluster that was
started here is shut down here in any case; one that existed before is left running.
"""

import asyncio
import logging
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.data
import ray.exceptions
from numpy.typing import NDArray

from app.core.errors import (
    CheckpointError,
    HydraulicDiagnosticsError,
    ModelUnavailable,
    StoreError,
    StoreUnavailable,
)
from app.core.settings import Settings
from app.fleet.plan import Plan
from app.fleet.scorer import FleetScorer, Outcome
from app.serving.observability.logging import configure_logging
from app.store.fleet import FleetRun, Page
from app.store.pool import PoolLimits
from app.store.store import open_store

CPU_OF_A_WORKER = 0.5
"""CPUs reserved for a worker: fewer than it uses, so that some start beside a running service."""
LOCAL = "local"
PAGE = "page"
PAGES_AT_ONCE = 2
RETRY_S = 60.0
"""How long a page waits for a database that is away before the run ends."""
_ERRORS: Mapping[str, type[HydraulicDiagnosticsError]] = {
    error.__name__: error for error in (StoreUnavailable, StoreError, CheckpointError)
}


class Pool(NamedTuple):
    """The workers of a run: how many, and the GPUs of each."""

    workers: int
    gpus: float


@contextmanager
def connected(address: str | None, workers: int | None, gpus: float | None) -> Iterator[Pool]:
    """Connect to the cluster, or start one on this machine; yield the workers it has room for.

    Args:
        address: of the Ray cluster; `auto` for that of this machine, `local` for a new one; None
            for that of RAY_ADDRESS, else a new one.
        workers: processes; None for as many as the cluster has processors, or GPUs, for.
        gpus: of each worker; None for one where the cluster has GPUs.

    Raises:
        ModelUnavailable: the cluster can't be reached.
    """
    started_here = not ray.is_initialized()
    if started_here:
        _start(address or os.environ.get("RAY_ADDRESS") or LOCAL, workers)
    try:
        yield _pool(workers, gpus)
    finally:
        if started_here:
            ray.shutdown()


def _start(address: str, workers: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        needed = math.ceil((workers or 1) * CPU_OF_A_WORKER)
        ray.init(
            address=LOCAL,
            include_dashboard=False,
            num_cpus=max(os.cpu_count() or 1, needed),
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ModelUnavailable(
            f"expected a Ray cluster at '{address}', found none ({error}): correct --address, or "
            "leave it out to start one here"
        ) from error


def _pool(workers: int | None, gpus: float | None) -> Pool:
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    if gpus is None:
        gpus = 1.0 if total.get("GPU", 0) >= 1 else 0.0
    if workers is not None:
        return Pool(workers, gpus)
    room = min(total.get("CPU", 1), free.get("CPU", 0) / CPU_OF_A_WORKER)
    if gpus > 0:
        room = min(room, free.get("GPU", 0) / gpus)
    return Pool(max(1, int(room)), gpus)


def outcomes_of(
    settings: Settings, run: FleetRun, plan: Plan, pages: Sequence[Page], pool: Pool, batch: int
) -> Iterator[list[Outcome]]:
    """Score pages on the cluster; yields the outcomes of a few machines at a time, in any order.

    Raises:
        StoreError: the database can't be reached, or refused.
        CheckpointError: a version's weights are not those that the run began with.
        ModelUnavailable: the workers failed otherwise.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = ray.data.from_items(
        [{PAGE: page.model_dump_json()} for page in pages], override_num_blocks=len(pages)
    )
    results = rows.map_batches(
        FleetWorker,
        batch_size=1,
        batch_format="numpy",
        fn_constructor_kwargs={"settings": settings, "run": run, "plan": plan, "batch": batch},
        compute=ray.data.ActorPoolStrategy(
            size=pool.workers,
            max_tasks_in_flight_per_actor=PAGES_AT_ONCE,
            max_concurrent_calls_per_actor=PAGES_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=CPU_OF_A_WORKER,
        num_gpus=pool.gpus or None,
    )
    try:
        for columns in results.iter_batches(batch_size=None, batch_format="numpy"):
            outcomes = [
                Outcome(*row)
                for row in zip(*(columns[name].tolist() for name in Outcome._fields), strict=True)
            ]
            for outcome in outcomes:
                if outcome.status == "ended":
                    raise _ERRORS.get(outcome.version, ModelUnavailable)(outcome.reason)
            yield outcomes
    except ray.exceptions.RayError as error:
        raise ModelUnavailable(
            f"expected the workers to score the fleet, found {type(error).__name__}: {error}; "
            "start the same run again to go on"
        ) from error


class FleetWorker:
    """Scores pages in one process, for Ray Data.

    Ray Data calls it from a few threads, so that a page is read and written while another is
    computed. They share one event loop in its own thread, to which the connections belong.
    A forward pass has at most `batch` graphs.
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

    def __call__(self, rows: Mapping[str, NDArray[np.object_]]) -> dict[str, NDArray[Any]]:
        """Score the page of one row; return a row a machine, or the error that ends the run."""
        (text,) = rows[PAGE]
        scoring = self._scorer.score_page(Page.model_validate_json(text))
        try:
            outcomes = asyncio.run_coroutine_threadsafe(scoring, self._loop).result()
        except HydraulicDiagnosticsError as error:
            # if it were raised, Ray would retry it, and pass it on as text
            outcomes = [Outcome("", "ended", type(error).__name__, error.message)]
        return {
            # typed also when a page has no machine any more
            name: np.array(
                [getattr(each, name) for each in outcomes], float if name == "compute_s" else str
            )
            for name in Outcome._fields
        }
