"""Exports an ensemble as an ONNX graph with dynamic windows, sensors, components, edges, steps."""

import logging
import warnings

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from app.model.graph import CHANNELS, GraphGroup, Topology
from app.model.network import Ensemble, GraphTensors, NetworkOutput, SkipTensors

OPSET = 20
# sizes of the traced example: all different, so that no two dimensions are taken for one
WINDOWS, SENSORS, COMPONENTS, EDGES, STEPS = 3, 11, 5, 7, 13


class _Estimate(nn.Module):
    """The ensemble's `estimate` as a module with one argument for each input of the graph."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, *tensors: Tensor) -> NetworkOutput:
        graph = len(GraphTensors._fields)
        return self.ensemble.estimate(GraphTensors(*tensors[:graph]), SkipTensors(*tensors[graph:]))


def export_onnx(ensemble: Ensemble) -> bytes:
    """Return the ONNX graph of an ensemble.

    Its inputs are named as the fields of `GraphTensors` and `SkipTensors`.

    Args:
        ensemble: on any device; stays in evaluation mode.
    """
    S, V, E = SENSORS, COMPONENTS, EDGES
    features = ensemble.config.features
    topology = Topology(
        sensor_component_S=np.arange(S) % V,
        sensor_quantity_S=np.arange(S) % ensemble.config.quantities,
        sensor_slot_S=np.full(S, -1),
        component_type_V=np.zeros(V, np.int64),
        component_slot_V=np.full(V, -1),
        grade_set_V=np.arange(V) % (len(ensemble.config.grade_sets) + 1) - 1,
        edge_index_2E=np.stack((np.arange(E) % V, np.arange(1, E + 1) % V)),
        edge_relation_E=np.zeros(E, np.int64),
    )
    x_WSTF = np.zeros((WINDOWS, S, STEPS, features), np.float32)
    group = GraphGroup(topology, x_WSTF, np.ones(x_WSTF.shape[:3], np.bool_))
    device = ensemble.temperature_G.device
    example = GraphTensors.of_group(group, device)
    skip = SkipTensors(*torch.ones(2, WINDOWS, V, CHANNELS, device=device))
    any_size = torch.export.Dim.DYNAMIC
    dimensions = (
        {0: any_size, 1: any_size, 2: any_size},
        {0: any_size, 1: any_size, 2: any_size},
        *({0: any_size} for _ in range(4)),
        {1: any_size},
        {0: any_size},
        {0: any_size, 1: any_size},
        {0: any_size, 1: any_size},
    )
    # An earlier trace in this process leaves its kernel of the LSTM in the operator's cache; the
    # next export would take it, unrolled over the steps (seen in torch 2.13).
    torch.ops.aten.lstm.input._dispatch_cache.clear()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Estimate(ensemble).eval(),
            (*example, *skip),
            dynamo=True,
            opset_version=OPSET,
            input_names=(*GraphTensors._fields, *SkipTensors._fields),
            output_names=NetworkOutput._fields,
            dynamic_shapes=(dimensions,),
            optimize=True,
            verbose=False,
        )
    assert program is not None
    graph = program.model.graph
    for node in list(graph.all_nodes()):
        node.metadata_props.clear()  # stack traces of this machine, two thirds of the file
        if node.op_type == "Reshape":
            _keep_steps(graph, node)
    return bytes(program.model_proto.SerializeToString())


def _keep_steps(graph: ir.Graph, node: ir.Node) -> None:
    """Make the steps dynamic in the reshape behind an LSTM, where the exporter fixes them."""
    shape = node.inputs[1]
    constant = None if shape is None else ir.convenience.get_const_tensor(shape)
    if constant is None or constant.size != 3 or constant.numpy()[:2].tolist() != [STEPS, -1]:
        return
    kept = np.array([0, *constant.numpy()[1:]], np.int64)  # 0 keeps the input's size
    value = ir.Value(name=f"{node.name}_kept_steps", const_value=ir.tensor(kept))
    graph.register_initializer(value)
    node.replace_input_with(1, value)
    node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
