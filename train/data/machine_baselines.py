"""Baselines of the machines of a training: what the service measures with a machine's own baseline.

A training with `TrainConfig.machine_baseline_h` normalises the windows of each machine by its
baseline from its first healthy hours, as the service does. A baseline depends on the windows of its
machine alone, so it is the same in all folds. Shapes: M machines, W windows, V components.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from app.features.baseline import Baseline
from app.features.binning import Floats
from app.features.references import LEAST_WINDOWS, measure_baseline
from app.features.spec import FeaturePlan, FeatureSpec, plan_features, stack_plans
from train.data.fleet import Fleet
from train.data.labels import HOUR_US, Booleans, Integers
from train.data.windows import Windows

HEALTHY = 0.9
"""Least labelled health of every component of a window that counts as healthy."""


def healthy_windows(windows: Windows) -> Booleans:
    """Return which windows are healthy, [W]: no component has a label below `HEALTHY`.

    Windows of a warm-up, and unstable ones, are not.
    """
    is_worn_W = (windows.labels.health_WV < HEALTHY).any(1)  # false where it is NaN
    is_healthy_W: Booleans = windows.labels.stable_W & ~windows.warm_up_W & ~is_worn_W
    return is_healthy_W


def with_baselines(fleet: Fleet, hours: float) -> Fleet:
    """Measure the baseline of each machine.

    It is of the machine's healthy windows that begin in the first hours after its first healthy
    window began, and of its first `LEAST_WINDOWS` at least; a machine with fewer has none, and the
    references of its design are used.

    Args:
        fleet: windows of all designs.
        hours: length of a baseline; 0 for no baselines.
    """
    return Fleet(tuple(_measured(each, hours) for each in fleet.designs)) if hours else fleet


def plan_machines(windows: Windows, spec: FeatureSpec) -> FeaturePlan:
    """Return the plan of a design: one for all windows, or with a row for each machine.

    Raises:
        WindowError: the spec does not fit the topology.
    """
    if not any(windows.baselines):
        return plan_features(windows.equipment, spec)
    return stack_plans(
        [plan_features(windows.equipment, spec, baseline) for baseline in windows.baselines]
    )


def _measured(windows: Windows, hours: float) -> Windows:
    baseline_W = np.zeros(len(windows), np.bool_)
    baselines: list[Baseline | None] = []
    for own_W in _baseline_positions(windows, hours):
        baseline_W[own_W] = True
        baselines.append(measure_baseline(partial(_values, windows, own_W), windows.equipment))
    return replace(windows, baselines=tuple(baselines), baseline_W=baseline_W)


def _values(windows: Windows, chosen_W: Integers) -> Iterator[Floats]:
    for _, values_BSN in windows.batches(chosen_W):
        yield values_BSN


def _baseline_positions(windows: Windows, hours: float) -> Iterator[Integers]:
    """Yield the windows of the baseline of each machine."""
    is_healthy_W = healthy_windows(windows)
    start_us_W = windows.labels.start_us_W
    for machine in range(len(windows.machines)):
        own_W = np.flatnonzero((windows.labels.machine_W == machine) & is_healthy_W)
        if len(own_W) < LEAST_WINDOWS:
            yield own_W[:0]
            continue
        is_early_W = start_us_W[own_W] < start_us_W[own_W[0]] + hours * HOUR_US
        yield own_W[: max(LEAST_WINDOWS, int(np.count_nonzero(is_early_W)))]
