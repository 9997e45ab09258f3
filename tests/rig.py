"""The rig's measured cycles for tests: one row of the shipped data as a client would send it."""

from functools import cache

from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive
from app.demo.rig.measurements import GRADED_COMPONENTS, CycleBlock, read_blocks

ROWS_PER_BLOCK = 2_000


@cache
def rig_block() -> CycleBlock:
    """Return all shipped cycles."""
    (block,) = read_blocks(open_archive(SHIPPED_ARCHIVE), ROWS_PER_BLOCK)
    return block


def rig_cycle(row: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return one cycle: its 60 values by sensor id, and the grade of each graded component."""
    block = rig_block()
    values = {
        sensor_id: values_CR[row].tolist() for sensor_id, values_CR in block.values_CR.items()
    }
    grades = {
        name: str(int(block.grades_CG[row, index])) for index, name in enumerate(GRADED_COMPONENTS)
    }
    return values, grades


def inline_readings(values: dict[str, list[float]], start: str) -> dict[str, object]:
    """Return the `readings` of a request."""
    return {"start": start, "step_s": 1.0, "values": values}
