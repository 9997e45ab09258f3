"""Small copies of the rig's layout, written to a temporary directory."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from app.demo.rig.measurements import CYCLE_S, SENSOR_IDS

WriteRig = Callable[..., Path]


@pytest.fixture
def write_rig(tmp_path: Path) -> WriteRig:
    """Return a function that writes a directory of cycles; `rates_hz` overrides 1 Hz."""

    def write(
        cycles: int = 3, rates_hz: Mapping[str, int] | None = None, *, index: bool = True
    ) -> Path:
        directory = tmp_path / "rig"
        directory.mkdir()
        rng = np.random.default_rng(7)
        for sensor_id in SENSOR_IDS:
            columns = CYCLE_S * (rates_hz or {}).get(sensor_id, 1)
            rows = rng.uniform(0.0, 200.0, (cycles, columns)).round(3)
            text = "".join("\t".join(map(repr, row)) + "\n" for row in rows.tolist())
            (directory / f"{sensor_id}.txt").write_text(text)
        profile = "".join(
            f"{(3, 20, 100)[row % 3]}\t100\t{row % 3}\t130\t{row % 2}\n" for row in range(cycles)
        )
        (directory / "profile.txt").write_text(profile)
        if index:
            (directory / "cycle_index.txt").write_text(
                "".join(f"{2 * row + 1}\n" for row in range(cycles))
            )
        return directory

    return write
