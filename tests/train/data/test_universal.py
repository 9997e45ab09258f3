"""The windows of the universal training: all designs, made once."""

from pathlib import Path

import numpy as np
import pytest

from app.core.settings import Settings
from app.demo.simulation.machine import machine_files
from tests.app.demo.engines import write_engines
from train.config import TrainConfig
from train.data import simulated_windows as simulated
from train.data import universal
from train.data.universal import UniversalData, universal_fleet

CONFIG = TrainConfig(design="all", rul_cap_h=100.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "NEW_WINDOWS", 1)
    monkeypatch.setattr(universal, "machine_files", lambda: {"cnc": machine_files()["cnc"]})


def test_fleet_has_each_design_once_and_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_engines(tmp_path / "train_FD001.txt", lives=(40, 30))
    data = UniversalData(2, 3, 2, 4_000.0, 9.0, 0.0, 7, tmp_path / "train_FD001.txt")
    settings = Settings(var_dir=tmp_path)
    with universal_fleet(settings, data, CONFIG, lambda _: None) as fleet:
        assert fleet.names == ("hydraulic-rig", "sim-cnc", "turbofan")
        rul_WV = fleet.designs[1].labels.rul_WV
        assert np.nanmax(rul_WV) == 100.0
        before = [windows.directory for windows in fleet.designs]

    def again(*_: object, **__: object) -> None:
        raise AssertionError("expected the windows of the first call, found them made again")

    monkeypatch.setattr(universal, "simulated_windows", again)
    monkeypatch.setattr(universal, "rig_windows", again)
    with universal_fleet(settings, data, CONFIG, lambda _: None) as fleet:
        assert [windows.directory for windows in fleet.designs] == before


def test_turbofan_takes_part_only_with_its_file(tmp_path: Path) -> None:
    data = UniversalData(2, 3, 2, 4_000.0, 9.0, 0.0, 7)
    with universal_fleet(Settings(var_dir=tmp_path), data, CONFIG, lambda _: None) as fleet:
        assert fleet.names == ("hydraulic-rig", "sim-cnc")
