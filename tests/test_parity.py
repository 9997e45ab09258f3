"""Skew: readings from the store, inline and in training give bitwise the same features."""

import numpy as np
import torch

from app.features.binning import bin_series
from app.model.graph import GraphGroup
from app.model.network import GraphTensors
from app.store.store import Store
from app.store.windows import decode_window
from tests.features import window_features
from tests.graphs import build_graph
from tests.small import press, small
from train.fitting.dataset import plan_tensors

START_US = 1_735_689_600_000_000  # 2025-01-01T00:00Z


def readings(seed: int) -> dict[str, tuple[list[int], list[float]]]:
    """Return irregular readings by sensor: several in a bin, empty bins, values beyond float32."""
    generator = np.random.default_rng(seed)
    found = {}
    for sensor_id in press().sensor_ids:
        offsets_us = np.unique(generator.integers(0, 12_000_000, 70))
        offsets_us = offsets_us[(offsets_us // 1_000_000) % 5 != seed % 5]
        found[sensor_id] = (
            offsets_us.tolist(),
            (10 + generator.normal(0, 1, len(offsets_us)) / 3).tolist(),
        )
    return found


async def test_stored_inline_and_training_features_are_bitwise_equal(store: Store) -> None:
    made = small()
    equipment = made.equipment
    await store.put_equipment(equipment)
    for seed in range(5):
        start_us = START_US + 12_000_000 * seed
        given = readings(seed)
        names = [sensor_id for sensor_id, (offsets_us, _) in given.items() for _ in offsets_us]
        times_us = [start_us + offset for offsets_us, _ in given.values() for offset in offsets_us]
        values = [value for _, series in given.values() for value in series]
        order = np.random.default_rng(seed).permutation(len(names))  # late and out of order
        half = len(order) // 2
        for part in (order[:half], order[half:]):
            await store.ingest(
                equipment.equipment_id,
                [names[index] for index in part],
                [times_us[index] for index in part],
                [values[index] for index in part],
            )
        window = (equipment.equipment_id, start_us // equipment.grid_us, equipment.bins)
        stored_SN = decode_window((await store.read_windows([window]))[0], equipment)
        inline_SN = np.stack(
            [
                bin_series(
                    np.array(offsets_us), np.array(series), equipment.grid_us, equipment.bins
                )
                for offsets_us, series in given.values()
            ]
        )
        assert stored_SN.tobytes() == inline_SN.tobytes()

        served = [
            build_graph(equipment, window_features(each, equipment, made.spec), made.spec)
            for each in (stored_SN, inline_SN)
        ]
        stored, inline = served
        assert stored.topology == inline.topology
        assert stored.x_WSTF.tobytes() == inline.x_WSTF.tobytes()
        assert stored.mask_WST.tobytes() == inline.mask_WST.tobytes()
        trained, _ = plan_tensors(equipment, made.spec, torch.device("cpu")).read(
            np.stack([stored_SN, stored_SN])
        )
        joined = GraphTensors.of_group(GraphGroup.merge(served))
        assert torch.equal(joined.x_WSTF.flatten(0, 1), trained.x)
        assert torch.equal(joined.mask_WST.flatten(0, 1), trained.mask)
