"""One connection to Ray for all fits of a run: the cluster of RAY_ADDRESS, or one that is started here and ended here.

Invariant: when the context ends, what it started is gone and the environment and signals are as they were.
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
"""What a worker asks of Ray: less than it uses, so that two workers start on one processor too."""
API_SERVER = "RAY_API_SERVER_ADDRESS"
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Train's watchdog asks the newest local cluster that it finds whether its controller lives. Beside a running service that
    # is another cluster, which says no, and the watchdog ends the training; with no server to ask it lets it go on.
    API_SERVER: "http://127.0.0.1:9",
    # A worker's report waits until the controller has taken the one before; its two seconds would be the shortest epoch.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Tune's own handler of Ctrl-C would end a search as if it were done.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Nobody takes a machine away from a cluster that is one machine; on one that is not, whoever starts it may say otherwise.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Put back what Ctrl-C does: Ray Train's own handler stays after its run, and then ends nothing."""
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
    """Connect to Ray, unless this process already is.

    Args:
        workers: processes that a fit will have at most; a cluster that is started here has room for them.

    Raises:
        KeyboardInterrupt: the run was interrupted; Ray Train's own handler ends the workers first and then raises `SystemExit`.
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


def _connect(workers: int) -> None:
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    ray.init(
        address="local",
        include_dashboard=False,
        # one more for the tasks that read windows
        num_cpus=max(os.cpu_count() or 1, math.ceil(workers * CPU_OF_A_WORKER) + 1),
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
