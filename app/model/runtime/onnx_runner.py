"""The ensemble's ONNX graph in ONNX Runtime: what CPU replicas run.

Measured on two cores against the module in eager PyTorch: 2 to 3 times as fast for a whole answer,
and a process that serves imports no torch (`DESIGN.md`, "Runtimes, measured").
"""

from pathlib import Path

import onnxruntime

from app.core.errors import CheckpointError
from app.features.binning import Floats
from app.model.graph import GraphGroup, SkipOutput

ERRORS_ONLY = 3


class OnnxRunner:
    """Runs an exported ensemble on the CPU.

    Args:
        graph: ONNX file, or its bytes.
        threads: cores that one pass may use.

    Raises:
        CheckpointError: the file is no ONNX graph.
    """

    def __init__(self, graph: Path | bytes, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        # an arena keeps 25 MB of a replica after its largest pass, and saves no time (within 3 %)
        options.enable_cpu_mem_arena = False
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                graph if isinstance(graph, bytes) else str(graph),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # its errors are bound by pybind11, without a common class
            raise CheckpointError(
                f"expected an ONNX graph of this project, found: {error}; "
                "take the checkpoint again from where it was trained"
            ) from error
        self.name = f"onnxruntime float32 x{threads}"

    def run(self, group: GraphGroup, skip: SkipOutput) -> tuple[Floats, ...]:
        """Return the arrays of `NetworkOutput`, see `NetworkRunner`."""
        topology = group.topology
        found: list[Floats] = self._session.run(
            None,
            {
                "x_WSTF": group.x_WSTF,
                "mask_WST": group.mask_WST,
                "sensor_component_S": topology.sensor_component_S,
                "sensor_quantity_S": topology.sensor_quantity_S,
                "component_type_V": topology.component_type_V,
                "grade_set_V": topology.grade_set_V,
                "edge_index_2E": topology.edge_index_2E,
                "edge_relation_E": topology.edge_relation_E,
                "skip_WVC": skip.skip_WVC,
                "deep_share_WVC": skip.deep_share_WVC,
            },
        )
        return tuple(found)
