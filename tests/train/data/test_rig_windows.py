"""Windows of the rig directly from a copy of its data."""

from pathlib import Path

import numpy as np

from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import GRADED_COMPONENTS, read_blocks
from train.data.rig_windows import rig_windows


def test_every_cycle_is_a_window_with_its_grades_and_values(tmp_path: Path) -> None:
    files, equipment = open_archive(SHIPPED_ARCHIVE), rig_equipment()
    windows = rig_windows(tmp_path / "rig", equipment, files)
    block = next(read_blocks(files, 40))
    values_BSN = windows.values(np.arange(40))
    for s, sensor_id in enumerate(equipment.sensor_ids):
        assert (values_BSN[:, s] == block.values_CR[sensor_id].astype(np.float32)).all()
    places = [equipment.component_ids.index(name) for name in GRADED_COMPONENTS]
    for g, v in enumerate(places):
        names = [grade.name for grade in equipment.components[v].grades]
        found = [names[grade] for grade in windows.labels.grade_WV[:40, v].tolist()]
        assert found == [str(grade) for grade in block.grades_CG[:, g].tolist()]
    assert (windows.labels.stable_W[:40] == block.stable_C).all()
