"""Windows of two small designs: the graded press, and a mill that wears until it fails."""

from pathlib import Path

import numpy as np

from app.schemas.equipment import Component, Connection, Equipment
from tests.small import START_US, graded_windows, sensor
from train.data.fleet import Fleet
from train.data.labels import WindowLabels
from train.data.windows import Windows, write_windows

LIFE = 20
"""Windows of a mill's life."""
CAP_H = 10.0


def mill() -> Equipment:
    """Return the machine: a motor (M1) that drives a spindle (S1, S2), in 6 steps of 5 bins."""
    return Equipment(
        equipment_id="mill-1",
        design="mill",
        components=(
            Component(component_id="motor", type="motor", sensors=(sensor("M1"),)),
            Component(
                component_id="spindle",
                type="spindle",
                sensors=(sensor("S1"), sensor("S2", "temperature", "degC")),
            ),
        ),
        connections=(
            Connection(source="motor", target="spindle", medium="pressure_line", evidence="both"),
        ),
        grid_s=1.0,
        window_s=30.0,
        steps=6,
    )


def mill_windows(directory: Path, machines: int = 6) -> Windows:
    """Write windows of mills whose spindle runs to failure; its readings follow its wear."""
    W = machines * LIFE
    left_h = np.tile(np.linspace(CAP_H, 0.0, LIFE), machines).astype(np.float32)
    unknown_WV = np.full((W, 2), np.nan, np.float32)
    health_WV, rate_WV, rul_WV = (unknown_WV.copy() for _ in range(3))
    rul_WV[:, 1], health_WV[:, 1] = left_h, left_h / CAP_H
    rate_WV[:, 1] = np.where(left_h < CAP_H, 1000.0 / CAP_H, 0.0)
    values_WSN = np.random.default_rng(1).normal(50.0, 1.0, (W, 3, 30)).astype(np.float32)
    values_WSN[:, 1] -= 2.0 * left_h[:, None]
    labels = WindowLabels(
        machine_W=np.repeat(np.arange(machines), LIFE),
        start_us_W=START_US + 30_000_000 * np.tile(np.arange(LIFE), machines),
        grade_WV=np.full((W, 2), -1, np.int64),
        health_WV=health_WV,
        rate_WV=rate_WV,
        rul_WV=rul_WV,
        stable_W=np.ones(W, np.bool_),
    )
    names = [f"mill-{number + 1}" for number in range(machines)]
    return write_windows(directory, mill(), names, labels, [values_WSN])


def two_designs(directory: Path, repeats: int = 10, machines: int = 6) -> Fleet:
    """Return the windows of both designs."""
    return Fleet(
        (mill_windows(directory / "mill", machines), graded_windows(directory / "press", repeats))
    )
