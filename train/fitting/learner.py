"""The network in training: optimizer steps, moving average of the weights, state to resume from.

Independent of Ray: `wrap` makes the network average its gradients over workers. Invariant: a
learner restored from a state takes the same next step as the one that returned it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.data import Batch

from app.model.network import Ensemble, Heads
from train.config import TrainConfig
from train.fitting.dataset import graph_tensors
from train.fitting.loss import LossWeights, Targets, training_loss
from train.fitting.optimize import clip_members, make_optimizer, rate_at, update_average

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class MicroBatch(NamedTuple):
    """Windows of one forward pass; of the loss, `partners` have the weight 1 - `share` (mixup)."""

    graph: Batch
    targets: Targets
    partners: Targets
    share: float


class Learner:
    """A network in training.

    Args:
        model: the network, on its device.
        wrap: wraps the network to average gradients over workers.
        config: of the training.
        steps: optimizer steps of the whole fit.
    """

    def __init__(
        self,
        model: Ensemble,
        wrap: Callable[[nn.Module], nn.Module],
        config: TrainConfig,
        steps: int,
    ) -> None:
        self.model = model
        self.steps_done = 0
        self._wrapped = wrap(model)
        self._config = config
        self._steps = steps
        self._weights = LossWeights(
            config.health_weight, config.rate_weight, config.rul_weight, config.rul_asymmetry
        )
        self._device = model.temperature_G.device
        self._optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.precision == "fp16")
        self._average = (
            {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
            if config.ema
            else {}
        )

    @property
    def rate(self) -> float:
        """Return the learning rate of the next step."""
        config = self._config
        return rate_at(self.steps_done, self._steps, config.learning_rate, config.rise_share)

    def step(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Take one optimizer step and return the mean loss of a member over the micro-batches."""
        self._wrapped.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._device)
        for number, micro_batch in enumerate(micro_batches, 1):
            with self._synced(is_last=number == len(micro_batches)):
                loss = self.loss(micro_batch) / len(micro_batches)
                torch.autograd.backward(self._scaler.scale(loss))
            total += loss.detach()
        self._scaler.unscale_(self._optimizer)
        clip_members(self.model, self._config.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.steps_done += 1
        if self._average:
            update_average(self._average, self.model, self._config.ema, self.steps_done)
        return total / self._config.members

    def predict(self, graph: Batch) -> Heads:
        """Predict with the weights that would be saved, without gradients."""
        self.model.eval()
        with torch.inference_mode():
            heads: Heads = torch.func.functional_call(
                self.model, self.weights(), (graph_tensors(graph),)
            )
        return heads.of_batch()

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that would be saved: the moving average where there is one."""
        return self._average or dict[str, Tensor](self.model.named_parameters())

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that the next step depends on, by name."""
        found: dict[str, Tensor] = {
            f"model.{name}": tensor for name, tensor in self.model.named_parameters()
        }
        found |= {f"average.{name}": tensor for name, tensor in self._average.items()}
        for name, parameter in self.model.named_parameters():
            for key, tensor in self._optimizer.state[parameter].items():
                found[f"optimizer.{name}.{key}"] = tensor
        return found

    def scale(self) -> tuple[float, int]:
        """Return the loss scale of fp16, and its age in steps."""
        state = self._scaler.state_dict()
        return float(state.get("scale", 1.0)), int(state.get("_growth_tracker", 0))

    def restore(self, tensors: Mapping[str, Tensor], steps: int, scale: tuple[float, int]) -> None:
        """Resume from a state.

        Args:
            tensors: from `state`.
            steps: optimizer steps so far.
            scale: from `scale`.
        """
        self.steps_done = steps
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
                prefix = f"optimizer.{name}."
                self._optimizer.state[parameter] = {
                    key.removeprefix(prefix): tensor.to(self._device, copy=True)
                    for key, tensor in tensors.items()
                    if key.startswith(prefix)
                }
        self._average = {
            name: tensors[f"average.{name}"].to(self._device, copy=True) for name in self._average
        }
        if self._scaler.is_enabled():
            state = self._scaler.state_dict() | {"scale": scale[0], "_growth_tracker": scale[1]}
            self._scaler.load_state_dict(state)

    def loss(self, micro_batch: MicroBatch) -> Tensor:
        """Return the loss of a micro-batch, summed over the members."""
        low = self._config.precision != "fp32"
        with torch.autocast(self._device.type, DTYPES[self._config.precision], enabled=low):
            heads: Heads = self._wrapped(graph_tensors(micro_batch.graph)).of_batch()
        heads = Heads(*(tensor.float() for tensor in heads)) if low else heads
        loss = training_loss(heads, micro_batch.targets, self._weights)
        share = micro_batch.share
        if share == 1.0:
            return loss
        mixed = training_loss(heads, micro_batch.partners, self._weights)
        return share * loss + (1.0 - share) * mixed

    def _synced(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Return a context in which only the last micro-batch of a step exchanges gradients."""
        if is_last or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        unsynced: AbstractContextManager[None] = self._wrapped.no_sync()
        return unsynced
