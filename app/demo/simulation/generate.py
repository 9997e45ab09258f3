"""Generates histories of simulated machines into a folder or a store."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from app.core.errors import InputError, ReadingError
from app.core.settings import Settings
from app.demo.machine import Progress, run_import
from app.demo.simulation.commissioning import put_as_new
from app.demo.simulation.files import (
    VERSION,
    Label,
    Manifest,
    clock,
    joined,
    labels_of,
    write_manifest,
    write_readings,
    write_truth,
)
from app.demo.simulation.first_day import baseline_as_new
from app.demo.simulation.history import (
    JOB_S,
    Recording,
    Unit,
    draw_unit,
    record_gapless,
    record_windows,
    sampled_hours,
)
from app.demo.simulation.machine import MachineDesign
from app.demo.simulation.wear import WearPlan, healthy_plan, mode_of
from app.store.labels import ConditionLabel
from app.store.readings import CHUNK, Readings
from app.store.store import Store

BATCH = 25
"""Windows that are simulated at once: memory of 600 s and 40 sensors is 5 MB."""


class Order(NamedTuple):
    """What to generate.

    Args:
        design: of the machines.
        machines: how many.
        hours: operating hours of each history.
        start: time of operating hour 0.
        seed: of all chance.
        windows: how many windows of each machine to sample along the history; 0 for every second.
        seconds: length of a window.
        wearing: expected number of components that wear within a history.
        sensor_faults: expected number of sensor faults in it.
        first: number of the first machine.
        prefix: of the equipment ids; None for the name of the design.
        faults: severity at the end of the history of faults that begin with it, by
            `component.fault`; of their components nothing else is drawn.
    """

    design: MachineDesign
    machines: int
    hours: float
    start: datetime
    seed: int
    windows: int = 0
    seconds: int = 600
    wearing: float = 2.5
    sensor_faults: float = 1.0
    first: int = 1
    prefix: str | None = None
    faults: Mapping[str, float] = MappingProxyType({})

    def checked(self) -> "Order":
        """Return it.

        Raises:
            InputError: a number is out of its range, or windows overlap.
            ReadingError: the design has no such fault, or a severity is not in (0, 1].
        """
        for name, value in (("machines", self.machines), ("hours", self.hours)):
            if not value > 0:
                raise InputError(f"expected {name} above 0, found {value:g}", name)
        if self.windows and self.hours * 3_600 / self.windows * 0.05 < self.seconds:
            most = int(self.hours * 180 // self.seconds)
            raise InputError(
                f"expected at most {most} windows of {self.seconds} s in {self.hours:g} h, found "
                f"{self.windows}: take fewer, or leave --sample out for every second",
                "sample",
            )
        modes = self.design.circuit.modes
        self._with_faults(healthy_plan(modes, self.hours))
        components = [modes[mode_of(modes, name)].component for name in self.faults]
        twice = sorted({each for each in components if components.count(each) > 1})
        if twice:
            raise InputError(
                f"expected one fault of a component, found several of {', '.join(twice)}: name one",
                "fault",
            )
        return self

    def units(self) -> Iterator[Unit]:
        """Yield the machines."""
        for index in range(self.first, self.first + self.machines):
            unit = draw_unit(
                self.design,
                index,
                self.seed,
                self.hours,
                wearing=self.wearing,
                sensor_faults=self.sensor_faults,
                prefix=self.prefix,
            )
            yield unit.with_plan(self._with_faults(unit.plan))

    def _with_faults(self, plan: WearPlan) -> WearPlan:
        for name, severity in self.faults.items():
            plan = plan.injected(name, severity, 0.0, self.hours)
        return plan

    def recordings(self, unit: Unit) -> Iterator[Recording]:
        """Yield the recordings of a machine in the order of time."""
        if not self.windows:
            yield from joined(record_gapless(unit, 0.0, self.hours), JOB_S)
            return
        hour_W = sampled_hours(unit, self.hours, self.windows)
        for first in range(0, self.windows, BATCH):
            yield from record_windows(unit, hour_W[first : first + BATCH], self.seconds, first)


def generate_files(order: Order, out: Path, report: Callable[[int, int], None]) -> Manifest:
    """Generate histories into a folder.

    Args:
        order: what to generate.
        out: a folder that does not exist or is empty.
        report: called after each machine with how many are done, and their readings.

    Raises:
        ReadingError: the folder is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ReadingError(
            f"expected an empty folder, found '{out}' with files: name another", "out"
        )
    for name in ("readings", "topologies"):
        (out / name).mkdir(parents=True)
    units = list(order.units())
    labels: list[list[Label]] = []
    readings = 0

    def write(unit: Unit) -> tuple[int, list[Label]]:
        path = out / "readings" / f"{unit.equipment_id}.parquet"
        return write_readings(path, unit, order.recordings(unit), order.start)

    # threads: the kernel runs without Python's lock
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for count, own in threads.map(write, units):
            labels.append(own)
            readings += count
            report(len(labels), readings)
    write_truth(out, units, labels, order.hours, order.start)
    manifest = Manifest(
        version=VERSION,
        simulated=True,
        machine=order.design.machine,
        design=order.design.design,
        name=order.design.name,
        seed=order.seed,
        machines=[unit.equipment_id for unit in units],
        hours=order.hours,
        start=order.start.isoformat(),
        windows=order.windows,
        seconds=order.seconds,
        wearing=order.wearing,
        sensor_faults=order.sensor_faults,
        faults=dict(order.faults),
        readings=readings,
    )
    write_manifest(out, manifest)
    return manifest


def generate_into_store(order: Order, settings: Settings) -> None:
    """Generate histories into the store of the settings; see `store_histories`."""
    asyncio.run(
        run_import(
            settings, "machines", lambda store, report: store_histories(store, order, report)
        )
    )


async def store_histories(
    store: Store, order: Order, report: Callable[[Progress], None]
) -> Progress:
    """Register machines with their baselines and write their readings and labels.

    Raises:
        StoreError: the store refused or can't be reached; reported machines are written.
        InputError: a machine has other readings at this time.
    """
    await store.migrate()
    progress = Progress(0, order.machines)
    for unit in order.units():
        await register(store, unit, order.start)
        recordings = order.recordings(unit)
        while (recording := await asyncio.to_thread(next, recordings, None)) is not None:
            for block in blocks_of(unit, recording, order.start):
                ingested = await store.ingest_many([block])
                if ingested.conflicts:
                    raise InputError(
                        f"expected no readings of '{unit.equipment_id}' at this time, found other "
                        "ones, which are kept: give other numbers by --first, or another --start",
                        "first",
                    )
                progress = progress.after(0, ingested)
            labels = [label_of(each, order.start) for each in labels_of(unit, recording)]
            await store.put_labels(unit.equipment_id, labels)
        progress = progress._replace(done=progress.done + 1)
        report(progress)
    return progress


async def register(store: Store, unit: Unit, start: datetime) -> None:
    """Register a machine, with a baseline from a first day as new; see `first_day`.

    Args:
        store: with its schema.
        unit: the machine.
        start: of its readings.
    """
    equipment = unit.design.equipment(unit.equipment_id)
    await store.put_equipment(equipment)
    baseline = await asyncio.to_thread(baseline_as_new, unit)
    await put_as_new(store, unit.equipment_id, equipment.revision, baseline, start)


def blocks_of(unit: Unit, recording: Recording, start: datetime) -> Iterator[Readings]:
    """Yield the readings of a recording in blocks of one transaction."""
    sensor_ids = [sensor.sensor_id for _, sensor in unit.design.sensors]
    begin_us = round(clock(start, recording.hour).timestamp()) * 1_000_000
    rows = max(1, CHUNK // len(sensor_ids))
    for first in range(0, len(recording.values_TS), rows):
        values_TS = recording.values_TS[first : first + rows]
        row_R, sensor_R = np.nonzero(np.isfinite(values_TS))
        yield Readings(
            unit.equipment_id,
            [sensor_ids[s] for s in sensor_R],
            begin_us + (first + row_R) * 1_000_000,
            values_TS[row_R, sensor_R],
        )


def label_of(label: Label, start: datetime) -> ConditionLabel:
    """Return a label as the store keeps it."""
    start_us, end_us = (
        round(clock(start, hour).timestamp()) * 1_000_000 for hour in (label.start_h, label.end_h)
    )
    return ConditionLabel(label.component_id, start_us, end_us, health=label.truth.health)
