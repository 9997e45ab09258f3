"""Replays the rig's cycles: the values of any second.

Pure: a second always has the same values, also after a restart.
Shapes: C cycles, M of them, K = 60 seconds of a cycle, S sensors.
Invariant: minute m since 1970-01-01T00:00Z replays cycle m modulo the number of cycles.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.core.errors import ReadingError
from app.demo.rig.measurements import CYCLE_S, RigFiles, read_blocks, survey


@dataclass(frozen=True, slots=True)
class Replay:
    """The rig's cycles by second.

    Args:
        sensor_ids: the order of S.
        values_CKS: float64[C, K, S], in the sensors' units.
    """

    sensor_ids: tuple[str, ...]
    values_CKS: NDArray[np.float64]

    @classmethod
    def load(cls, files: RigFiles, sensor_ids: tuple[str, ...]) -> Self:
        """Read all cycles of a copy of the data at 1 Hz.

        Args:
            files: a copy of the data; every sensor at 60 values a cycle.
            sensor_ids: the order of S; sensors of the rig.

        Raises:
            ReadingError: the data are not in the layout, or not at 1 Hz.
        """
        found = survey(files)
        fast = [sensor_id for sensor_id in sensor_ids if found.rates_hz[sensor_id] != 1]
        if fast:
            raise ReadingError(
                f"{files.where}: expected 60 columns to replay, found {fast[0]}.txt with "
                f"{CYCLE_S * found.rates_hz[fast[0]]}: replay the shipped copy, or import this one "
                "with `import-rig`"
            )
        values_CKS = np.empty((found.cycles, CYCLE_S, len(sensor_ids)))
        first = 0
        for block in read_blocks(files, cycles_per_block=64):
            last = first + len(block.cycle_index_C)
            for position, sensor_id in enumerate(sensor_ids):
                values_CKS[first:last, :, position] = block.values_CR[sensor_id]
            first = last
        return cls(sensor_ids, values_CKS)

    def values_between(self, start_s: int, end_s: int) -> NDArray[np.float64]:
        """Return the values of every second of a half-open interval.

        Args:
            start_s: whole seconds since 1970-01-01T00:00Z.
            end_s: likewise, exclusive.

        Returns:
            float64[end_s - start_s, S].
        """
        if end_s <= start_s:
            return np.empty((0, len(self.sensor_ids)))
        first_minute = start_s // CYCLE_S
        minute_M = np.arange(first_minute, (end_s - 1) // CYCLE_S + 1)
        values_MKS = self.values_CKS[minute_M % len(self.values_CKS)]
        skipped = start_s - first_minute * CYCLE_S
        return values_MKS.reshape(-1, len(self.sensor_ids))[skipped : skipped + end_s - start_s]
