"""A small graded machine with a cycle of 12 s, its windows and an untrained network."""

from dataclasses import dataclass

import numpy as np
import torch

from app.core.shared_storage import StoragePath
from app.features.binning import Floats
from app.features.spec import FeatureSpec
from app.model.config import CircuitSize, ModelConfig
from app.model.trained import TrainedModel
from app.schemas.equipment import Component, Connection, Equipment, Grade, Sensor
from tests.graphs import untrained
from train.config import TrainConfig
from train.data.labels import Booleans, Integers, WindowLabels
from train.data.reference import spec_of
from train.data.windows import Windows, write_windows
from train.fitting.start import network

START_US = 1_735_689_600_000_000
"""2025-01-01T00:00Z, a whole multiple of the cycle."""

GRADES = (
    Grade(name="new", health=1.0),
    Grade(name="worn", health=0.5),
    Grade(name="failed", health=0.1),
)


def sensor(sensor_id: str, quantity: str = "pressure", unit: str = "bar") -> Sensor:
    return Sensor(sensor_id=sensor_id, quantity=quantity, unit=unit, range=(-100.0, 300.0))


def press(components: tuple[str, ...] = ("pump", "valve", "tank")) -> Equipment:
    """Return the machine: pump (P1, Q1) to valve (P2) to tank (no grades, T1)."""
    known = {
        "pump": Component(
            component_id="pump",
            type="pump",
            sensors=(sensor("P1"), sensor("Q1", "flow", "l/min")),
            grades=GRADES,
        ),
        "valve": Component(
            component_id="valve", type="valve", sensors=(sensor("P2"),), grades=GRADES[:2]
        ),
        "tank": Component(
            component_id="tank", type="tank", sensors=(sensor("T1", "temperature", "degC"),)
        ),
    }
    return Equipment(
        equipment_id="press-1",
        design="press",
        components=tuple(known[name] for name in components),
        connections=(
            Connection(source="pump", target="valve", medium="pressure_line", evidence="both"),
            Connection(source="valve", target="tank", medium="return_line", evidence="forward"),
            Connection(source="tank", target="pump", medium="suction_line", evidence="none"),
        ),
        grid_s=1.0,
        window_s=12.0,
        steps=4,
        cycle_s=12.0,
    )


def wave(windows: int, sensors: int, bins: int = 12, seed: int = 0) -> Floats:
    """Return windows of one rising wave with a little noise, [W, S, N]."""
    generator = np.random.default_rng(seed)
    level_S1 = 10.0 * (1 + np.arange(sensors))[:, None]
    return (
        level_S1 + np.sin(np.arange(bins)) + 0.1 * generator.normal(size=(windows, sensors, bins))
    ).astype(np.float32)


def graded(grade_WV: Integers, stable_W: Booleans | None = None) -> WindowLabels:
    """Return labels with these grades for consecutive windows of the machine from 2025 on."""
    healths_VK = np.full((grade_WV.shape[1], len(GRADES) + 1), np.nan, np.float32)
    for component, each in enumerate(press().components):
        healths_VK[component, : len(each.grades)] = [grade.health for grade in each.grades]
    unknown_WV = np.full(grade_WV.shape, np.nan, np.float32)
    return WindowLabels(
        machine_W=np.zeros(len(grade_WV), np.int64),
        start_us_W=START_US + 12_000_000 * np.arange(len(grade_WV), dtype=np.int64),
        grade_WV=grade_WV,
        health_WV=np.take_along_axis(healths_VK.T, grade_WV, axis=0),
        rate_WV=unknown_WV,
        rul_WV=unknown_WV.copy(),
        stable_W=np.ones(len(grade_WV), np.bool_) if stable_W is None else stable_W,
    )


def graded_windows(directory: StoragePath, repeats: int = 10) -> Windows:
    """Write windows whose sensors shift with the grades, eight of them warm-up.

    There are six configurations, each `repeats` times.
    """
    grades = [(pump, valve, -1) for pump in range(3) for valve in range(2)]
    grade_WV = np.repeat(np.array(grades, np.int64), repeats, axis=0)
    values_WSN = wave(len(grade_WV), 4)
    values_WSN[:, 0] += 5.0 * grade_WV[:, :1]
    values_WSN[:, 2] += 5.0 * grade_WV[:, 1:2]
    stable_W = np.arange(len(grade_WV)) >= 8
    return write_windows(
        directory, press(), ("press-1",), graded(grade_WV, stable_W), [values_WSN], warm_up_run=8
    )


@dataclass(frozen=True, slots=True)
class Small:
    """Everything that a window needs to become an answer."""

    equipment: Equipment
    spec: FeatureSpec
    config: ModelConfig
    model: TrainedModel


def small(members: int = 2, hidden: int = 8) -> Small:
    """Return the machine with a spec fitted to its waves and a network of random weights."""
    equipment = press()
    train = TrainConfig(
        equipment="press-1",
        members=members,
        hidden=hidden,
        heads=2,
        statistics=("mean", "spread", "end"),
    )
    spec = spec_of([wave(40, 4)], equipment, train)
    # pump and valve read P1, Q1 and P2
    circuit = CircuitSize(sensors=3, steps=equipment.steps, components=2, axes=2)
    config = network(spec, train, equipment.steps, (circuit,))
    torch.manual_seed(0)
    return Small(equipment, spec, config, untrained(config))
