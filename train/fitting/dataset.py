"""Windows as tensors: bins to features to a PyG batch of graphs, and labels to targets.

Does no training and no I/O. Invariant: a graph that training reads without augmentation is bitwise
the graph that serving builds from the same bins.
"""

import copy
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch_geometric.data import Batch, Data

from app.features.binning import Floats
from app.features.extraction import FeatureBatch, batch_features
from app.features.spec import FeaturePlan, FeatureSpec, plan_features
from app.model.config import ModelConfig
from app.model.graph import Topology, build_topology
from app.model.network import GraphTensors
from app.model.skip import LEAST_PRESENT, impute
from app.schemas.equipment import Equipment
from train.data.labels import Integers, WindowLabels
from train.fitting.loss import Targets
from train.fitting.wide_and_deep import CircuitInput, WideInput
from train.linear.whitening import Circuit


def window_graph(topology: Topology) -> Data:
    """Return a topology as PyG data, without features.

    PyG joins graphs by one rule: fields named `*index*` count components, so they are shifted by
    the number of components of the graphs before; all others are concatenated.
    """
    return Data(
        edge_index=torch.tensor(topology.edge_index_2E),
        edge_relation=torch.tensor(topology.edge_relation_E),
        sensor_component_index=torch.tensor(topology.sensor_component_S),
        sensor_quantity=torch.tensor(topology.sensor_quantity_S),
        component_type=torch.tensor(topology.component_type_V),
        grade_set=torch.tensor(topology.grade_set_V),
        num_nodes=topology.components,
    )


def graph_tensors(*batches: Data) -> GraphTensors:
    """Return batches of graphs as the input of the network: one window of their disjoint union.

    Args:
        batches: of one or several topologies, at least one, with equally many steps.
    """
    parts = [_tensors(batch) for batch in batches]
    if len(parts) == 1:
        return parts[0]
    first = [0, *accumulate(len(part.component_type_V) for part in parts)]
    shifted = [
        part._replace(
            sensor_component_S=part.sensor_component_S + offset,
            edge_index_2E=part.edge_index_2E + offset,
        )
        for part, offset in zip(parts, first, strict=False)
    ]
    along = {"x_WSTF": 1, "mask_WST": 1, "edge_index_2E": 1}
    return GraphTensors(
        *(
            torch.cat([getattr(part, name) for part in shifted], dim=along.get(name, 0))
            for name in GraphTensors._fields
        )
    )


def _tensors(batch: Data) -> GraphTensors:
    return GraphTensors(
        batch.x[None],
        batch.mask[None],
        batch.sensor_component_index,
        batch.sensor_quantity,
        batch.component_type,
        batch.grade_set,
        batch.edge_index,
        batch.edge_relation,
    )


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What all windows of a topology share on their way to tensors; made once by `plan_tensors`."""

    features: FeaturePlan
    graph: Data
    circuits: tuple[tuple[int, Circuit], ...]
    """Circuits of the skip with their numbers."""
    device: torch.device
    joined: dict[int, Batch] = field(default_factory=dict)
    """Batches without features, by their number of graphs."""

    def graphs(self, features: FeatureBatch) -> Batch:
        """Return the batch of the windows' graphs, with `x` [S, T, F] and `mask` [S, T]."""
        count = len(features.x_WSTF)
        if count not in self.joined:
            self.joined[count] = Batch.from_data_list([self.graph] * count).to(self.device)
        batch = copy.copy(self.joined[count])
        x_STF, mask_ST = (
            torch.from_numpy(each).flatten(0, 1) for each in (features.x_WSTF, features.mask_WST)
        )
        batch.x = x_STF.to(self.device, non_blocking=True)
        batch.mask = mask_ST.to(self.device, non_blocking=True)
        return batch

    def wide(self, features: FeatureBatch) -> WideInput:
        """Return what the skip reads of the windows."""
        found = []
        for number, circuit in self.circuits:
            x_WQTF = features.x_WSTF[:, circuit.sensor_Q]
            mask_WQT = features.mask_WST[:, circuit.sensor_Q]
            x_WL = x_WQTF.reshape(len(x_WQTF), -1)
            is_known_W = mask_WQT.mean((1, 2)) >= LEAST_PRESENT
            if not mask_WQT.all():
                present_WL = mask_WQT.reshape(len(x_WL), -1).repeat(x_WQTF.shape[-1], axis=1)
                present_WL[~is_known_W] = True  # these get no skip
                axes_LA = circuit.axes_LX[:, : len(circuit.noise_A)]
                x_WL = impute(x_WL, present_WL, circuit.mean_L, axes_LA, circuit.noise_A)
            x_BL, is_known_B = (torch.from_numpy(each) for each in (x_WL, is_known_W))
            found.append(
                CircuitInput(
                    number,
                    x_BL.to(self.device, non_blocking=True),
                    is_known_B.to(self.device, non_blocking=True),
                )
            )
        return WideInput(len(features.x_WSTF), int(self.graph.num_nodes or 0), tuple(found))

    def features_of(self, values_WSN: Floats, machine_W: Integers | None = None) -> FeatureBatch:
        """Return the features of bins.

        Args:
            values_WSN: bins.
            machine_W: machine of each window; needed where the plan has rows of machines.
        """
        plan = self.features if machine_W is None else self.features.rows(machine_W)
        return batch_features(values_WSN, plan)

    def read(
        self, values_WSN: Floats, machine_W: Integers | None = None
    ) -> tuple[Batch, WideInput]:
        """Return the batch of the graphs of bins, and what the skip reads of them."""
        features = self.features_of(values_WSN, machine_W)
        return self.graphs(features), self.wide(features)


def plan_tensors(
    equipment: Equipment,
    spec: FeatureSpec,
    device: torch.device,
    features: FeaturePlan | None = None,
    circuits: tuple[tuple[int, Circuit], ...] = (),
) -> TensorPlan:
    """Prepare what windows of a topology share.

    Args:
        equipment: one of the machines.
        spec: of the features.
        device: of the tensors.
        features: plan of the topology, with rows of machines where they have baselines; None to
            make one.
        circuits: of the topology, with their numbers.

    Raises:
        WindowError: no window of this topology can fit the spec.
    """
    graph = window_graph(build_topology(equipment, spec))
    return TensorPlan(features or plan_features(equipment, spec), graph, circuits, device)


def tabulate_targets(
    labels: WindowLabels, config: ModelConfig, device: torch.device, life_scale: float = 1.0
) -> Targets:
    """Return labels in the network's units, [W, V]; -1 or NaN where there is none.

    Args:
        labels: of W windows.
        config: of the network; has the units.
        device: of the targets.
        life_scale: of the design, see `FeatureSpec.life_scales`.
    """
    columns: tuple[np.ndarray, ...] = (
        labels.grade_WV,
        labels.health_WV.astype(np.float32),
        (labels.rate_WV * life_scale / config.rate_unit).astype(np.float32),
        (labels.rul_WV / (life_scale * config.rul_unit_h)).astype(np.float32),
    )
    return Targets(*(torch.from_numpy(column.copy()).to(device) for column in columns))
