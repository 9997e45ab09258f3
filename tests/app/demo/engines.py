"""Small files in the layout of C-MAPSS."""

from pathlib import Path

import numpy as np


def write_engines(path: Path, lives: tuple[int, ...] = (5, 3), seed: int = 0) -> Path:
    """Write histories of engines 1, 2 ... with these numbers of cycles, as published."""
    generator = np.random.default_rng(seed)
    lines = []
    for unit, cycles in enumerate(lives, 1):
        for cycle in range(1, cycles + 1):
            settings = [f"{value:.4f}" for value in (0.001, 0.0003, 100.0)]
            # a drift towards the failure on every sensor, within its range
            values = MIDDLES * (1 + 0.01 * cycle / cycles) + 1e-3 * generator.normal(size=21)
            lines.append(
                " ".join([str(unit), str(cycle), *settings, *(f"{value:.4f}" for value in values)])
                + "  \n"
            )
    path.write_text("".join(lines))
    return path


MIDDLES = np.array([
    518.67, 642.0, 1589.0, 1400.0, 14.62, 21.61, 554.0, 2388.0, 9046.0, 1.3, 47.4, 521.0, 2388.0,
    8138.0, 8.4, 0.03, 392.0, 2388.0, 100.0, 39.0, 23.4,
])  # fmt: skip
