"""Runs the pages of a run with Ray Data, on workers with their own weights and connections.

Only pages (two ids, or some hundred) are sent to the workers, and small rows back; memory does not
grow with the fleet. A cluster that was started here is shut down here in any case; one that existed
before is left running.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import ray.data
import ray.exceptions

from app.core.errors import (
    CheckpointError,
    HydraulicDiagnosticsError,
    ModelUnavailable,
    StoreError,
    StoreUnavailable,
)
from app.core.settings import Settings
from app.fleet.plan import Plan
from app.fleet.scorer import Outcome
from app.fleet.worker import PAGE, PAGES_AT_ONCE, FleetWorker
from app.store.fleet import FleetRun, Page

CPU_OF_A_WORKER = 0.5
"""CPUs reserved for a worker: fewer than it uses, so that some start beside a running service."""
LOCAL = "local"
_ENDS: Mapping[str, type[HydraulicDiagnosticsError]] = {
    error.__name__: error for error in (StoreUnavailable, StoreError, CheckpointError)
}


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run may use.

    Args:
        address: of the Ray cluster; `auto` for that of this machine, `local` for a new one; None
            for that of RAY_ADDRESS, else a new one.
        workers: processes; None for as many as the cluster has processors, or GPUs, for.
        gpus: of each worker; None for one where the cluster has GPUs.
        batch: most graphs of a forward pass.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float | None = None
    batch: int = 32


@dataclass(frozen=True, slots=True)
class Pool:
    """The workers of a run: how many, and the GPUs of each."""

    workers: int
    gpus: float


@contextmanager
def connected(resources: Resources) -> Iterator[Pool]:
    """Connect to the cluster, or start one on this machine; yield the workers it has room for.

    Raises:
        ModelUnavailable: the cluster can't be reached.
    """
    started_here = not ray.is_initialized()
    if started_here:
        _start(resources)
    try:
        yield _pool(resources)
    finally:
        if started_here:
            ray.shutdown()


def _start(resources: Resources) -> None:
    address = resources.address or os.environ.get("RAY_ADDRESS") or LOCAL
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        needed = math.ceil((resources.workers or 1) * CPU_OF_A_WORKER)
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


def _pool(resources: Resources) -> Pool:
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    gpus = (
        resources.gpus if resources.gpus is not None else 1.0 if total.get("GPU", 0) >= 1 else 0.0
    )
    if resources.workers is not None:
        return Pool(resources.workers, gpus)
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
                    raise _ENDS.get(outcome.version, ModelUnavailable)(outcome.reason)
            yield outcomes
    except ray.exceptions.RayError as error:
        raise ModelUnavailable(
            f"expected the workers to score the fleet, found {type(error).__name__}: {error}; "
            "start the same run again to go on"
        ) from error
