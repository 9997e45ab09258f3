"""What a diagnosis costs, before it is made: the cells of its forward passes. Pure.

A pass takes time in proportion to steps x (sensors + components + edges): measured on one core, the
rig (444 cells a window) and a graph of 200 components (14,400) take .7 us a cell in batches. An
explanation takes a pass more for each sensor.
"""

from app.core.errors import LimitExceeded
from app.schemas.equipment import Equipment

MAX_EXPLAINED_CELLS = 1_000_000
"""Most cells of one explanation, one to three seconds of a core: 129 passes of a machine with 128
sensors, 120 components and 200 connections in both directions are that many."""


MAX_PASS_CELLS = 1_000_000
"""Most cells of one forward pass, about a second of a core and some hundred megabytes for each
layer; the largest topology, of 4,096 connections, may have about 100 steps."""


def pass_cells(equipment: Equipment) -> int:
    """Return the cells of one forward pass over one window of a machine."""
    return equipment.once("pass_cells", lambda: _pass_cells(equipment))


def diagnosis_cells(equipment: Equipment, *, explain: bool) -> int:
    """Return the cells of all forward passes of one diagnosis."""
    return pass_cells(equipment) * (1 + len(equipment.sensors) if explain else 1)


def check_pass(cells: int) -> None:
    """Refuse a window that takes too long, or too much memory, in one forward pass.

    Args:
        cells: of the pass.

    Raises:
        LimitExceeded: it has more than `MAX_PASS_CELLS`.
    """
    if cells > MAX_PASS_CELLS:
        raise LimitExceeded(
            f"expected a machine of at most {MAX_PASS_CELLS} cells a window (steps x (sensors + "
            f"components + edges)), found {cells}: give its topology fewer `steps`",
            "equipment.steps",
        )


def check_explainable(cells: int) -> None:
    """Refuse an explanation that takes too long.

    Args:
        cells: of all its forward passes.

    Raises:
        LimitExceeded: it has more than `MAX_EXPLAINED_CELLS`.
    """
    if cells > MAX_EXPLAINED_CELLS:
        raise LimitExceeded(
            "expected a diagnosis whose explanation takes at most "
            f"{MAX_EXPLAINED_CELLS} cells ((1 + sensors) x steps x (sensors + components + edges)),"
            f" found {cells}: leave `explain` out",
            "explain",
        )


def _pass_cells(equipment: Equipment) -> int:
    edges_of = {"none": 0, "both": 2}
    edges = sum(edges_of.get(each.evidence, 1) for each in equipment.connections)
    return equipment.steps * (len(equipment.sensors) + len(equipment.components) + edges)
