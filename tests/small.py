"""A small graded machine that repeats a cycle of 12 s, its windows and an untrained network, for tests of features to training."""

from dataclasses import dataclass

import numpy as np
import torch

from app.bins import Floats
from app.feature_spec import FeatureSpec
from app.model import ModelConfig, UniversalTemporalGNN
from app.schemas.equipment import Component, Connection, Equipment, Grade, Sensor
from train.config import TrainConfig
from train.fit import network
from train.reference import fit_spec

GRADES = (Grade(name="new", health=1.0), Grade(name="worn", health=0.5), Grade(name="failed", health=0.1))


def sensor(sensor_id: str, quantity: str = "pressure", unit: str = "bar") -> Sensor:
    return Sensor(sensor_id=sensor_id, quantity=quantity, unit=unit, range=(-100.0, 300.0))


def press(components: tuple[str, ...] = ("pump", "valve", "tank")) -> Equipment:
    """Return the machine with its components in this order: pump (P1, Q1) to valve (P2) to tank (no grades, T1)."""
    known = {
        "pump": Component(
            component_id="pump", type="pump", sensors=(sensor("P1"), sensor("Q1", "flow", "l/min")), grades=GRADES
        ),
        "valve": Component(component_id="valve", type="valve", sensors=(sensor("P2"),), grades=GRADES[:2]),
        "tank": Component(component_id="tank", type="tank", sensors=(sensor("T1", "temperature", "degC"),)),
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
    return (level_S1 + np.sin(np.arange(bins)) + 0.1 * generator.normal(size=(windows, sensors, bins))).astype(
        np.float32
    )


@dataclass(frozen=True, slots=True)
class Small:
    """Everything that a window needs to become an answer."""

    equipment: Equipment
    spec: FeatureSpec
    config: ModelConfig
    model: UniversalTemporalGNN


def small(members: int = 2, hidden: int = 8) -> Small:
    """Return the machine with a spec fitted to its waves and a network of random weights."""
    equipment = press()
    train = TrainConfig(
        equipment="press-1", members=members, hidden=hidden, heads=2, statistics=("mean", "spread", "end")
    )
    spec = fit_spec(wave(40, 4), equipment, train)
    config = network(spec, train, equipment.steps)
    torch.manual_seed(0)
    return Small(equipment, spec, config, UniversalTemporalGNN(config).eval())
