"""Machines whose sensors follow one load, for tests of sensor models."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from app.features.binning import Doubles, Floats
from app.features.spec import FeaturePlan, FeatureSpec, plan_features
from app.schemas.equipment import Component, Connection, Equipment, Sensor
from train.config import TrainConfig
from train.data.labels import WindowLabels
from train.data.reference import fit_spec
from train.data.windows import Windows, write_windows
from train.linear.sensor_model import fit_sensor_model

MACHINES, WINDOWS, BINS = 30, 900, 60
SLOPES = np.array([2.0, 0.8, 1.5, 1.0, 0.5, 1.2])
LEVELS = np.array([100.0, 40.0, 90.0, 55.0, 45.0, 70.0])
PUMP, VALVE, TANK = range(3)


class Loaded(NamedTuple):
    """Training windows of the machines, and a spec with a sensor model."""

    equipment: Equipment
    spec: FeatureSpec
    values_WSN: Floats
    health_WV: Doubles

    @property
    def plan(self) -> FeaturePlan:
        """Return the plan of a machine."""
        return plan_features(self.equipment, self.spec)


def equipment() -> Equipment:
    """Return a machine: pump (P1, Q1) to valve (P2, P3) to tank (T1, L1), two sensors each."""

    def part(component_id: str, kind: str, *sensors: tuple[str, str, str]) -> Component:
        return Component(
            component_id=component_id,
            type=kind,
            sensors=tuple(
                Sensor(sensor_id=name, quantity=quantity, unit=unit, range=(-500.0, 2_000.0))
                for name, quantity, unit in sensors
            ),
        )

    return Equipment(
        equipment_id="loaded-1",
        design="loaded",
        components=(
            part("pump", "pump", ("P1", "pressure", "bar"), ("Q1", "flow", "l/min")),
            part("valve", "valve", ("P2", "pressure", "bar"), ("P3", "pressure", "bar")),
            part("tank", "tank", ("T1", "temperature", "degC"), ("L1", "level", "%")),
        ),
        connections=(
            Connection(source="pump", target="valve", medium="pressure_line", evidence="both"),
            Connection(source="valve", target="tank", medium="return_line", evidence="forward"),
        ),
        grid_s=1.0,
        window_s=float(BINS),
        steps=12,
    )


def loaded_windows(health_WV: Doubles, seed: int = 0) -> Floats:
    """Return windows: all sensors follow the load; a worn pump lowers P1, Q1 and P2 together."""
    random = np.random.default_rng(seed)
    W = len(health_WV)
    load_W1N = random.normal(size=(W, 1, 1)) + 0.5 * random.normal(size=(W, 1, BINS))
    values_WSN = LEVELS[:, None] + 3.0 * SLOPES[:, None] * load_W1N
    values_WSN += 0.3 * random.normal(size=values_WSN.shape)
    lost_W11 = (1.0 - health_WV[:, PUMP])[:, None, None]
    values_WSN[:, :3] -= lost_W11 * np.array([20.0, 10.0, 12.0])[:, None]
    lost_W1 = (1.0 - health_WV[:, TANK])[:, None]
    values_WSN[:, 4] += 15.0 * lost_W1
    values_WSN[:, 5] -= 9.0 * lost_W1
    return values_WSN.astype(np.float32)


def healths(windows: int, seed: int = 1) -> Doubles:
    """Return healths of the components: a third of the windows each has a worn pump, tank, none."""
    random = np.random.default_rng(seed)
    health_WV = np.ones((windows, 3))
    worn_W = random.integers(0, 3, windows)
    lost_W = random.uniform(0.2, 1.0, windows)
    for number, component in ((1, PUMP), (2, TANK)):
        health_WV[worn_W == number, component] -= lost_W[worn_W == number]
    return health_WV


def write_loaded(directory: Path, windows: int = WINDOWS) -> Windows:
    """Write training windows of the machines."""
    health_WV = healths(windows)
    shape = health_WV.shape
    labels = WindowLabels(
        machine_W=np.sort(np.arange(windows) % MACHINES),
        start_us_W=60_000_000 * np.arange(windows, dtype=np.int64),
        grade_WV=np.full(shape, -1, np.int64),
        health_WV=health_WV.astype(np.float32),
        rate_WV=np.full(shape, np.nan, np.float32),
        rul_WV=np.full(shape, np.nan, np.float32),
        stable_W=np.ones(windows, np.bool_),
    )
    names = tuple(f"loaded-{number}" for number in range(1, MACHINES + 1))
    return write_windows(directory, equipment(), names, labels, [loaded_windows(health_WV)])


@cache
def loaded() -> Loaded:
    """Return the machine with a spec whose sensor model is fitted to its windows."""
    with TemporaryDirectory() as directory:
        windows = write_loaded(Path(directory))
        chosen_W = np.arange(len(windows))
        spec = fit_spec(windows, chosen_W, TrainConfig(equipment="loaded-1"))
        model = fit_sensor_model(windows, chosen_W, spec, 0)
        values_WSN = windows.values(chosen_W)
    assert model is not None
    spec = spec.model_copy(update={"sensor_models": {"loaded": model}})
    return Loaded(equipment(), spec, values_WSN, healths(WINDOWS))
