"""Connect to Ray for all fits of a training: to the cluster of RAY_ADDRESS, or to a new local one.

Invariant: when the context ends, a cluster that it started is stopped, and environment and signal
handlers are as before.
"""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.data

CPU_OF_A_WORKER = 0.5
"""CPUs that a worker reserves: fewer than it uses, so that two workers fit on one processor."""
API_SERVER = "RAY_API_SERVER_ADDRESS"
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray Train's watchdog queries the newest local cluster for the controller. Beside a running
    # service this may be the wrong cluster, and the watchdog stops the training; it ignores a
    # server that does not answer.
    API_SERVER: "http://127.0.0.1:9",
    # A worker's report waits for the controller's poll; the default of two seconds limits epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Tune's own handler of Ctrl-C would end a search as if it had finished.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A local cluster has no preemption; the environment may turn the watcher on elsewhere.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Restore the handler of Ctrl-C: Ray Train leaves its own handler, which then has no effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, on_interrupt)


@contextmanager
def ray_session(workers: int) -> Iterator[None]:
    """Connect to Ray, unless this process is connected.

    Args:
        workers: largest number of workers of a fit; a new local cluster has room for them.

    Raises:
        KeyboardInterrupt: it was interrupted; Ray Train's own handler stops the workers and raises
            `SystemExit`, which is translated.
    """
    before = {name: os.environ.get(name) for name in SETTINGS}
    is_own = not ray.is_initialized()
    try:
        os.environ.update({name: value for name, value in SETTINGS.items() if before[name] is None})
        if is_own:
            _connect(workers)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        with interrupts_kept():
            yield
    except SystemExit as stopped:
        raise KeyboardInterrupt from stopped
    finally:
        if is_own:
            ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def gpus() -> int:
    """Return the number of GPUs of the cluster that this process is connected to."""
    found = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(found.get("GPU", 0))


def free_cpus() -> float:
    """Return the CPUs that nothing on the cluster has reserved, at least a tenth of one."""
    found = ray.available_resources()  # type: ignore[no-untyped-call]
    return max(0.1, float(found.get("CPU", 0.0)))


def _connect(workers: int) -> None:
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    ray.init(
        address="local",
        include_dashboard=False,
        # one more for tasks that read windows
        num_cpus=max(os.cpu_count() or 1, math.ceil(workers * CPU_OF_A_WORKER) + 1),
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
