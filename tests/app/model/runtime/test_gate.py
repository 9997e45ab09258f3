"""The gate, and what it refuses."""

from collections.abc import Callable

import numpy as np
import pytest

from app.core.errors import CheckpointError
from app.features.binning import Floats
from app.model.graph import GraphGroup, SkipOutput
from app.model.runtime.gate import check_runner, reference_outputs
from app.model.runtime.onnx_runner import OnnxRunner
from app.model.runtime.torch_runner import TorchRunner
from app.model.trained import TrainedModel
from tests.small import small


class Changed:
    """A runner one of whose outputs is changed."""

    name = "changed"

    def __init__(self, model: TrainedModel, change: Callable[[Floats], Floats], place: int) -> None:
        self._runner, self._change, self._place = TorchRunner(model.ensemble), change, place

    def run(self, group: GraphGroup, skip: SkipOutput) -> tuple[Floats, ...]:
        found = list(self._runner.run(group, skip))
        found[self._place] = self._change(found[self._place])
        return tuple(found)


def test_the_module_passes_its_own_gate() -> None:
    made = small()
    runner = TorchRunner(made.model.ensemble)
    assert check_runner(runner, made.config, reference_outputs(runner, made.config)) == 0.0


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda health_WV: health_WV + np.float32(2e-5), 1),
        (lambda health_WV: health_WV * np.float32(np.nan), 1),
        (lambda probability_WVK: probability_WVK[..., ::-1], 0),
    ],
    ids=["off", "no number", "another grade"],
)
def test_runner_that_differs_is_refused(change: Callable[[Floats], Floats], place: int) -> None:
    made = small()
    expected = reference_outputs(TorchRunner(made.model.ensemble), made.config)
    with pytest.raises(CheckpointError, match="expected changed within 1e-05 of the reference"):
        check_runner(Changed(made.model, change, place), made.config, expected)


def test_reference_of_another_model_is_refused() -> None:
    made = small()
    with pytest.raises(CheckpointError, match="expected reference outputs of every probe"):
        check_runner(TorchRunner(made.model.ensemble), made.config, {})


def test_file_that_is_no_graph_is_refused() -> None:
    with pytest.raises(CheckpointError, match="expected an ONNX graph of this project"):
        OnnxRunner(b"text")
