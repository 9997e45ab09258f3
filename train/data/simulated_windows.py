"""Make windows of simulated machines directly from the simulation, without a store.

Each machine has a first day as new, which gives its baseline, windows along its later wear, and
snapshots. Along its wear many components are worn at once; a snapshot has a few faults of its own,
as machines in use have. Health, degradation rate and remaining life are those of the simulation at
the end of a window; remaining life has no cap, and is unknown before the onset of wear, when no
reading shows it. A snapshot has only the health at its beginning.
Invariant: equal arguments write equal windows.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from app.core.shared_storage import StoragePath
from app.demo.machine import DEFAULT_START
from app.demo.simulation.files import VERSION
from app.demo.simulation.history import (
    Recording,
    Unit,
    draw_unit,
    record_windows,
    sampled_hours,
)
from app.demo.simulation.machine import MachineDesign
from app.demo.simulation.wear import Trajectory, WearPlan, healthy_plan
from app.features.binning import Doubles, Floats
from train.data.labels import (
    EPOCH,
    HOUR_US,
    MICROSECOND,
    WindowLabels,
    join_labels,
)
from train.data.windows import Windows, write_windows

FORMAT = "2"
"""Of the windows; raise it when equal arguments write other windows."""
NEW_H = 24.0
"""Length of the first day, in which nothing wears and no sensor is faulty."""
NEW_WINDOWS = 24
"""Windows of it: the fewest that make a baseline."""
LATER_H = 5_000.0
"""From the beginning of the first day to the later windows: no life is so long that the wear of a
later window began before."""
AT_ONCE = 24
"""Windows that are simulated at once."""
SNAPSHOT_FAULTS = (0.1, 0.5, 0.25, 0.15)
"""Shares of snapshots with no fault, one, two and three."""
LEAST_SEVERITY = 0.02
GROWTH_H = 4.0
"""Most hours in which the faults of a snapshot grow, and after which they are repaired."""


class SimulatedMachines(NamedTuple):
    """Which machines of a design to simulate.

    Args:
        design: of the machines.
        machines: how many.
        windows: of each, along `hours` of wear, beside those of the first day.
        snapshots: of each, in as many further hours.
        hours: operating hours of the wear.
        wearing: expected number of components that wear within it.
        sensor_faults: expected number of sensor faults in it.
        seed: of all chance.
    """

    design: MachineDesign
    machines: int
    windows: int
    snapshots: int
    hours: float
    wearing: float
    sensor_faults: float
    seed: int

    @property
    def digest(self) -> str:
        """SHA-256 of everything that the windows depend on."""
        design, *numbers = self
        text = f"simulated {FORMAT} {VERSION} {numbers} {design.model_dump_json()}"
        return hashlib.sha256(text.encode()).hexdigest()


def simulated_windows(directory: StoragePath, order: SimulatedMachines) -> Windows:
    """Write the windows of simulated machines to a new directory.

    Args:
        directory: for the shards.
        order: the machines.

    Returns:
        The windows of each machine: those of its first day, the later ones, the snapshots.
    """
    equipment = order.design.equipment(order.design.design)
    units = [
        draw_unit(
            order.design,
            index,
            order.seed,
            order.hours,
            wearing=order.wearing,
            sensor_faults=order.sensor_faults,
        )
        for index in range(1, order.machines + 1)
    ]
    seconds = round(equipment.window_s)
    labels = [_labels(unit, order, machine, seconds) for machine, unit in enumerate(units)]
    return write_windows(
        directory,
        equipment,
        [unit.equipment_id for unit in units],
        join_labels(labels),
        _values(units, order, seconds),
    )


def _values(units: list[Unit], order: SimulatedMachines, seconds: int) -> Iterator[Floats]:
    """Simulate the machines in threads; the kernel runs without Python's lock."""

    def simulate(unit: Unit) -> Floats:
        new = replace(unit.with_plan(healthy_plan(unit.plan.modes, 0.0)), sensor_faults=())
        hour_W, new_hour_W, snapshot_hour_W = _hours(unit, order)
        few = unit.with_plan(_snapshots(unit, order, snapshot_hour_W))
        found = [
            *_recorded(new, new_hour_W, seconds, order.windows),
            *_recorded(unit, hour_W, seconds, 0),
            *_recorded(few, snapshot_hour_W, seconds, order.windows + NEW_WINDOWS),
        ]
        return np.stack([each.values_TS.T.astype(np.float32) for each in found])

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        remaining = iter(units)
        # no more machines are simulated ahead than threads: memory does not grow with their number
        running = [pool.submit(simulate, unit) for unit in islice(remaining, 2 * threads)]
        while running:
            values_WSN = running.pop(0).result()
            running += [pool.submit(simulate, unit) for unit in islice(remaining, 1)]
            yield values_WSN


def _recorded(unit: Unit, hour_W: Doubles, seconds: int, first: int) -> Iterator[Recording]:
    for begin in range(0, len(hour_W), AT_ONCE):
        yield from record_windows(unit, hour_W[begin : begin + AT_ONCE], seconds, first + begin)


def _hours(unit: Unit, order: SimulatedMachines) -> tuple[Doubles, Doubles, Doubles]:
    """Return the operating hours at which windows begin: later ones, first day, snapshots."""
    part_W = np.arange(NEW_WINDOWS) + unit.random(5).uniform(0.0, 0.8, NEW_WINDOWS)
    snapshot_W = np.arange(order.snapshots) + unit.random(6).uniform(0.05, 0.95, order.snapshots)
    return (
        sampled_hours(unit, order.hours, order.windows),
        part_W * NEW_H / NEW_WINDOWS - LATER_H,
        order.hours * (1.0 + snapshot_W / max(1, order.snapshots)),
    )


def _snapshots(unit: Unit, order: SimulatedMachines, hour_W: Doubles) -> WearPlan:
    """Draw the faults of each snapshot, whose severity is spread evenly when it begins."""
    # snapshots are further apart, so that none has the faults of the one before
    growth_h = min(GROWTH_H, 0.04 * order.hours / max(1, order.snapshots))
    modes, random = unit.plan.modes, unit.random(7)
    plan = healthy_plan(modes, 1e6)
    found: list[Trajectory] = []
    for hour in hour_W.tolist():
        count = int(random.choice(len(SNAPSHOT_FAULTS), p=SNAPSHOT_FAULTS))
        for mode in random.choice(len(modes), count, replace=False).tolist():
            severity = float(random.uniform(LEAST_SEVERITY, 1.0))
            life_h, until_h = growth_h / severity, hour + growth_h
            found.append(Trajectory(mode, hour - growth_h, life_h, 1.0, until_h))
    return replace(plan, trajectories=(*plan.trajectories, *found))


def _labels(unit: Unit, order: SimulatedMachines, machine: int, seconds: int) -> WindowLabels:
    hour_W, new_hour_W, snapshot_hour_W = _hours(unit, order)
    components = unit.design.components
    truth = [
        [unit.plan.condition(each.component_id, hour + seconds / 3_600) for each in components]
        for hour in hour_W.tolist()
    ]
    few = _snapshots(unit, order, snapshot_hour_W)
    later_W = np.concatenate([hour_W, snapshot_hour_W])
    shape = (NEW_WINDOWS + len(later_W), len(components))
    own = slice(NEW_WINDOWS, NEW_WINDOWS + len(hour_W))
    health_WV, rate_WV = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    rul_WV = np.full(shape, np.nan, np.float32)
    health_WV[own] = [[each.health for each in row] for row in truth]
    rate_WV[own] = [[each.degradation_rate for each in row] for row in truth]
    rul_WV[own] = [[each.rul_h if each.fault else np.nan for each in row] for row in truth]
    rate_WV[own.stop :] = np.nan
    for row, hour in enumerate(snapshot_hour_W.tolist(), own.stop):
        health_WV[row] = [few.condition(each.component_id, hour).health for each in components]
    begin_us = (DEFAULT_START - EPOCH) // MICROSECOND
    second_W = np.round(np.concatenate([new_hour_W, later_W]) * 3_600 + LATER_H * 3_600)
    return WindowLabels(
        machine_W=np.full(shape[0], machine, np.int64),
        start_us_W=begin_us + second_W.astype(np.int64) * (HOUR_US // 3_600),
        grade_WV=np.full(shape, -1, np.int64),
        health_WV=health_WV,
        rate_WV=rate_WV,
        rul_WV=rul_WV,
        stable_W=np.ones(shape[0], np.bool_),
    )
