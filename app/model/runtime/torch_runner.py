"""The ensemble as a PyTorch module, for GPU replicas and for checkpoints without ONNX."""

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor

from app.features.binning import Floats
from app.model.graph import GraphGroup, SkipOutput, Topology
from app.model.network import Ensemble, GraphTensors, SkipTensors
from app.model.runtime.predictor import PassTooLarge

MAX_TOPOLOGIES = 64
"""Topologies whose index tensors stay on the device."""


class TorchRunner:
    """Runs an ensemble on its device.

    Args:
        ensemble: in evaluation mode.
        dtype: of the matrix products. float32 is exact; bfloat16 moves a health by thousandths.
    """

    def __init__(self, ensemble: Ensemble, dtype: torch.dtype = torch.float32) -> None:
        self._ensemble = ensemble
        self._dtype = dtype
        self._device = ensemble.temperature_G.device
        self._indices: LRUCache[Topology, tuple[Tensor, ...]] = LRUCache(MAX_TOPOLOGIES)
        self.name = f"torch {str(dtype).removeprefix('torch.')} {self._device.type}"

    def run(self, group: GraphGroup, skip: SkipOutput) -> tuple[Floats, ...]:
        """Return the arrays of `NetworkOutput`, see `NetworkRunner`; waits for the device once."""
        try:
            with (
                torch.inference_mode(),
                torch.autocast(
                    self._device.type, self._dtype, enabled=self._dtype != torch.float32
                ),
            ):
                graph = GraphTensors(
                    self._moved(group.x_WSTF),
                    self._moved(group.mask_WST),
                    *self._of(group.topology),
                )
                output = self._ensemble.estimate(graph, SkipTensors(*map(self._moved, skip)))
                return tuple(tensor.float().cpu().numpy() for tensor in output)
        except torch.OutOfMemoryError as error:
            message = str(error)
        # outside of the handler, whose traceback holds the failed pass's tensors
        torch.cuda.empty_cache()
        raise PassTooLarge(message)

    def _of(self, topology: Topology) -> tuple[Tensor, ...]:
        found = self._indices.get(topology)
        if found is None:
            arrays = (
                topology.sensor_component_S,
                topology.sensor_quantity_S,
                topology.component_type_V,
                topology.grade_set_V,
                topology.edge_index_2E,
                topology.edge_relation_E,
            )
            found = self._indices[topology] = tuple(self._moved(array) for array in arrays)
        return found

    def _moved(self, array: NDArray[np.generic]) -> Tensor:
        """Return an array on the device: to a GPU through pinned memory, without waiting."""
        tensor = torch.from_numpy(np.require(array, requirements=("C", "W")))
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)
