"""Windows as tensors: bins to features to the graphs of a batch at once, and their labels to targets in the network's units.

Does no training and reads nothing. A batch's windows share one topology, so all but features and masks is made once for each size.
Invariant: a graph that training sees undisturbed is bitwise the graph that serving builds of the same bins.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from app.features.binning import Floats
from app.features.extraction import FeatureBatch, batch_features
from app.features.spec import FeaturePlan, FeatureSpec, plan_features
from app.model.graph import GraphPlan, plan_graph, tile_graphs
from app.model.network import GraphTensors, ModelConfig, to_tensors
from app.schemas.equipment import Equipment
from train.data.labels import Integers, WindowLabels
from train.fitting.loss import Targets


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What all windows of a topology share on their way to tensors; made once by `plan_tensors`."""

    features: FeaturePlan
    graph: GraphPlan
    device: torch.device
    constant: dict[int, GraphTensors] = field(default_factory=dict)

    def graphs(self, features: FeatureBatch) -> GraphTensors:
        """Make one batch of windows' graphs, as `tile_graphs` does."""
        count = len(features.x_WSTF)
        if count not in self.constant:
            batch = tile_graphs(self.graph, features.x_WSTF, features.mask_WST)
            self.constant[count] = to_tensors(batch, self.device)
        x_STF = torch.from_numpy(features.x_WSTF).flatten(0, 1)
        mask_ST = torch.from_numpy(features.mask_WST).flatten(0, 1)
        return self.constant[count]._replace(
            x_STF=x_STF.to(self.device, non_blocking=True),
            mask_ST=mask_ST.to(self.device, non_blocking=True),
        )

    def read(self, values_WSN: Floats) -> GraphTensors:
        """Make one batch of the graphs of bins."""
        return self.graphs(batch_features(values_WSN, self.features))


@dataclass(frozen=True, slots=True)
class TargetTable:
    """Targets of all windows, [W, V] tensors in the network's units, -1 or NaN where there is no label."""

    targets_WV: Targets

    def take(self, position_W: Integers) -> Targets:
        """Return the targets of some windows, one row after the other, as the components of their graphs come."""
        chosen_W = torch.from_numpy(position_W)
        return Targets(
            *(tensor[chosen_W.to(tensor.device)].flatten() for tensor in self.targets_WV)
        )


def plan_tensors(equipment: Equipment, spec: FeatureSpec, device: torch.device) -> TensorPlan:
    """Work out what windows of a topology share.

    Raises:
        WindowError: no window of this topology can fit the spec.
    """
    return TensorPlan(plan_features(equipment, spec), plan_graph(equipment, spec), device)


def tabulate_targets(
    labels: WindowLabels, config: ModelConfig, device: torch.device
) -> TargetTable:
    """Put labels into the network's units.

    Args:
        labels: of W windows.
        config: of the network; has the units.
        device: on which the targets shall be.
    """
    columns: tuple[np.ndarray, ...] = (
        labels.grade_WV,
        labels.health_WV.astype(np.float32),
        (labels.rate_WV / config.rate_unit).astype(np.float32),
        (labels.rul_WV / config.rul_unit_h).astype(np.float32),
    )
    return TargetTable(Targets(*(torch.from_numpy(column.copy()).to(device) for column in columns)))
