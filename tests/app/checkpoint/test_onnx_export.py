"""The exported graph against the module, and the processes that run it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app.checkpoint import manifest as files
from app.checkpoint.files import load
from app.checkpoint.onnx_export import export_onnx
from app.checkpoint.predictor import open_predictor
from app.checkpoint.torch_model import load_model
from app.model.graph import SkipOutput
from app.model.runtime.gate import check_runner, probe_skip, reference_outputs, warm_up_group
from app.model.runtime.onnx_runner import OnnxRunner
from app.model.runtime.torch_runner import TorchRunner
from app.model.trained import TrainedModel
from tests.graphs import assert_close, untrained
from tests.small import small

SHIPPED = Path(files.__file__).parents[1] / "weights"


def run_equals_module(graph: bytes, model: TrainedModel, steps: int) -> None:
    """Check that a graph repeats the module for windows of some steps."""
    group = warm_up_group(replace(model.ensemble.config, circuits=(), ood_steps=steps), 2)
    skip = probe_skip(group)
    expected = TorchRunner(model.ensemble).run(group, skip)
    for mine, theirs in zip(OnnxRunner(graph).run(group, skip), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.fixture(scope="module")
def first() -> tuple[TrainedModel, bytes]:
    """A model with every part, and its graph: the first that this module's process exports."""
    torch.manual_seed(3)
    config = replace(small().config, members=2, lstm_layers=2, rate_unit=0.5, rul_unit_h=2.0)
    model = untrained(config)
    with torch.no_grad():
        for parameter in model.ensemble.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.ensemble.temperature_G.uniform_(0.5, 2.0)
    return model, export_onnx(model.ensemble)


def test_exported_graph_repeats_every_part_of_the_module(first: tuple[TrainedModel, bytes]) -> None:
    model, graph = first
    config = model.ensemble.config
    expected = reference_outputs(TorchRunner(model.ensemble), config)
    assert len(graph) < 300_000
    runner = OnnxRunner(graph)
    assert check_runner(runner, config, expected) < 1e-5
    frozen = warm_up_group(config, 2)
    frozen.x_WSTF.flags.writeable = False
    runner.run(frozen, SkipOutput.none(2, frozen.topology.components))


def test_process_exports_more_than_once_with_dynamic_steps(
    first: tuple[TrainedModel, bytes],
) -> None:
    model = untrained(small().config)
    for each, graph in (first, (model, export_onnx(model.ensemble))):
        for steps in (5, 12):
            run_equals_module(graph, each, steps)


def test_shipped_graphs_repeat_the_module_with_skip_and_distance() -> None:
    for version in ("1", "2"):
        checkpoint = load(SHIPPED / version)
        group = warm_up_group(checkpoint.config, 16)
        (found,) = open_predictor(checkpoint).predictor.predict([group])
        (expected,) = load_model(checkpoint).predictor().predict([group])
        assert_close(found, expected, 1e-5)
        assert np.isfinite(found.distance_WV).any()


def test_process_that_serves_a_shipped_checkpoint_imports_no_torch() -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from app.serving.model_server.deployment import ModelDeployment\n"
        "from app.checkpoint.files import load\n"
        "from app.checkpoint.predictor import open_predictor\n"
        "from app.model.runtime.gate import warm_up_group\n"
        f"checkpoint = load(Path({str(SHIPPED / '1')!r}))\n"
        "opened = open_predictor(checkpoint, 'cpu')\n"
        "opened.predictor.predict([warm_up_group(checkpoint.config, 4)])\n"
        "sys.exit(bool({'torch', 'torch_geometric', 'onnx'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
