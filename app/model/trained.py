"""A trained model in one piece: ensemble, linear skip and OOD detector; imports torch.

CPU replicas have the same parts without torch, see `app.checkpoint.predictor`.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from app.model.config import TABLES, ModelConfig
from app.model.network import Ensemble, build_model
from app.model.ood_detector import OodDetector
from app.model.runtime.predictor import Predictor
from app.model.runtime.torch_runner import TorchRunner
from app.model.skip import LinearSkip


class TrainedModel(NamedTuple):
    """What training makes and a checkpoint holds.

    Args:
        ensemble: the network.
        skip: None for a model without one.
        detector: None for a model without one.
    """

    ensemble: Ensemble
    skip: LinearSkip | None = None
    detector: OodDetector | None = None

    @property
    def config(self) -> ModelConfig:
        """Return the sizes of the model."""
        return self.ensemble.config

    @classmethod
    def of_arrays(cls, config: ModelConfig, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Return the model of a config and the content of `weights.safetensors`.

        Raises:
            RuntimeError: names or shapes are not those of the config.
        """
        # the first weights are drawn and thrown away: leave the caller's sequence alone
        with torch.random.fork_rng(devices=[]):
            ensemble = build_model(config)
        network = {
            name: torch.tensor(array)
            for name, array in arrays.items()
            if not name.startswith(TABLES)
        }
        ensemble.load_state_dict(network)
        ensemble.eval().requires_grad_(requires_grad=False)
        return cls(
            ensemble,
            LinearSkip.of_arrays(config, arrays),
            OodDetector.of_arrays(config, arrays),
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the content of `weights.safetensors`."""
        found = {
            name: tensor.detach().cpu().numpy()
            for name, tensor in self.ensemble.state_dict().items()
        }
        for tables in (self.skip, self.detector):
            found |= tables.arrays() if tables is not None else {}
        return {name: np.ascontiguousarray(array) for name, array in found.items()}

    def predictor(self, dtype: torch.dtype = torch.float32) -> Predictor:
        """Return the model as a predictor that runs the module on its device."""
        runner = TorchRunner(self.ensemble.eval(), dtype)
        return Predictor(self.config, runner, self.skip, self.detector)
