"""Windows of all demonstration designs for one training, made from what the project can generate.

Simulated machines, the rig's shipped cycles and, where its file is given, the engines of C-MAPSS;
no store is needed. Invariant: equal arguments give equal windows, which are made once.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.core.settings import Settings
from app.core.shared_storage import StoragePath
from app.demo.cmapss.files import read_engines
from app.demo.cmapss.importer import engine_topology
from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive
from app.demo.rig.equipment import TOPOLOGY_FILE, rig_equipment
from app.demo.simulation.machine import machine_files, read_machine
from train.config import TrainConfig
from train.data.engine_windows import engine_windows
from train.data.fleet import Fleet
from train.data.machine_baselines import with_baselines
from train.data.made_once import made_once
from train.data.rig_windows import rig_windows
from train.data.simulated_windows import SimulatedMachines, simulated_windows
from train.data.windows import Windows

ENGINE_COMPONENT = "hpc"
"""The component of the turbofan that fails in FD001."""


class UniversalData(NamedTuple):
    """What to train on.

    Args:
        machines: simulated machines of each design.
        windows: of each machine, beside those of its first day.
        snapshots: of each machine, see `train.data.simulated_windows`.
        hours: operating hours of the wear of each machine.
        wearing: expected number of components of a machine that wear.
        sensor_faults: expected number of sensor faults of a machine.
        seed: of the simulated machines.
        cmapss: training file of C-MAPSS, such as `train_FD001.txt`; None to leave out the turbofan.
    """

    machines: int
    windows: int
    snapshots: int
    hours: float
    wearing: float
    sensor_faults: float
    seed: int
    cmapss: Path | None = None


@contextmanager
def universal_fleet(
    settings: Settings, data: UniversalData, config: TrainConfig, say: Callable[[str], None]
) -> Iterator[Fleet]:
    """Make the windows of all designs under `var/training`, or reuse them.

    Args:
        settings: of the `var` directory.
        data: what to train on.
        config: gives the cap of remaining life and the length of the machines' baselines.
        say: shows a line of progress.

    Yields:
        The windows of each design, in the order of their names.

    Raises:
        ReadingError: the file of C-MAPSS can't be read.
    """
    makers = dict(sorted(_makers(data, config).items()))
    with ExitStack() as stack:
        designs = []
        for design, (digest, make) in makers.items():
            say(f"making the windows of {design}, unless an earlier training did")
            directory = settings.var_dir / "training" / digest[:16]
            designs.append(_capped(made_once(stack, directory, make), config.cap_h(design)))
        yield with_baselines(Fleet(tuple(designs)), config.machine_baseline_h)


def _capped(windows: Windows, cap_h: float) -> Windows:
    """Return windows with remaining lives of at most a cap."""
    capped_WV = np.minimum(windows.labels.rul_WV, np.float32(cap_h))  # NaN stays
    return replace(windows, labels=replace(windows.labels, rul_WV=capped_WV))


_Maker = tuple[str, Callable[[StoragePath], Windows]]
"""The digest of everything that the windows of a design depend on, and what writes them."""


def _makers(data: UniversalData, config: TrainConfig) -> dict[str, _Maker]:
    """Return the maker of each design."""
    found: dict[str, _Maker] = {}
    for name in machine_files():
        design = read_machine(name)
        order = SimulatedMachines(
            design,
            data.machines,
            data.windows,
            data.snapshots,
            data.hours,
            data.wearing,
            data.sensor_faults,
            data.seed,
        )
        found[design.design] = (order.digest, partial(simulated_windows, order=order))
    rig = rig_equipment()
    found[rig.design] = (
        _digest("rig 1", SHIPPED_ARCHIVE.read_bytes(), TOPOLOGY_FILE.read_bytes()),
        lambda directory: rig_windows(directory, rig, open_archive(SHIPPED_ARCHIVE)),
    )
    if data.cmapss is not None:
        engines, topology = read_engines(data.cmapss), engine_topology()
        names = [f"engine-{engine.unit}" for engine in engines]
        found[topology.design] = (
            _digest(
                f"engines 1 {config.cap_h(topology.design)}",
                data.cmapss.read_bytes(),
                topology.model_dump_json().encode(),
            ),
            partial(
                engine_windows,
                topology=topology,
                engines=engines,
                remaining=[0.0] * len(engines),
                component_id=ENGINE_COMPONENT,
                cap_h=config.cap_h(topology.design),
                names=names,
            ),
        )
    return found


def _digest(kind: str, *contents: bytes) -> str:
    sha256 = hashlib.sha256(kind.encode())
    for content in contents:
        sha256.update(hashlib.sha256(content).digest())
    return sha256.hexdigest()
