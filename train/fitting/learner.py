"""The network with all that changes it: takes steps, keeps the moving average, and gives its state out and back.

Knows neither Ray nor where windows come from: how gradients are shared comes in as the wrapped
network.
Invariant: a learner restored from a state takes the same next step as the one that gave it.
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
from train.fitting.optimize import clip_members, follow, make_optimizer, rate_at

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Part(NamedTuple):
    """Windows of a step that are computed together; blended ones have their partners' targets with the rest of the weight."""

    graph: Batch
    targets: Targets
    partners: Targets
    share: float


class Learner:
    """A network in training.

    Args:
        model: the network, on its device.
        wrap: makes it share its gradients with the other workers.
        config: of the training.
        steps: of the whole fit.
    """

    def __init__(
        self,
        model: Ensemble,
        wrap: Callable[[nn.Module], nn.Module],
        config: TrainConfig,
        steps: int,
    ) -> None:
        self.model = model
        self.taken = 0
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
        return rate_at(self.taken, self._steps, self._config.learning_rate, self._config.rise_share)

    def step(self, parts: Sequence[Part]) -> Tensor:
        """Learn from one batch's windows of this worker and return their loss, of a member."""
        self._wrapped.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._device)
        for number, part in enumerate(parts, 1):
            with self._silence(is_last=number == len(parts)):
                loss = self.loss(part) / len(parts)
                torch.autograd.backward(self._scaler.scale(loss))
            total += loss.detach()
        self._scaler.unscale_(self._optimizer)
        clip_members(self.model, self._config.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.taken += 1
        if self._average:
            follow(self._average, self.model, self._config.ema, self.taken)
        return total / self._config.members

    def answer(self, graph: Batch) -> Heads:
        """Answer with the weights that would be saved, without gradients."""
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
        """Return every tensor that the next step depends on, by a name of its own."""
        found: dict[str, Tensor] = {
            f"model.{name}": tensor for name, tensor in self.model.named_parameters()
        }
        found |= {f"average.{name}": tensor for name, tensor in self._average.items()}
        for name, parameter in self.model.named_parameters():
            for key, tensor in self._optimizer.state[parameter].items():
                found[f"optimizer.{name}.{key}"] = tensor
        return found

    def scale(self) -> tuple[float, int]:
        """Return what fp16 multiplies the loss by, and for how many steps already."""
        held = self._scaler.state_dict()
        return float(held.get("scale", 1.0)), int(held.get("_growth_tracker", 0))

    def restore(self, tensors: Mapping[str, Tensor], taken: int, scale: tuple[float, int]) -> None:
        """Go on from a state.

        Args:
            tensors: from `state`.
            taken: steps so far.
            scale: from `scale`.
        """
        self.taken = taken
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
                begin = f"optimizer.{name}."
                self._optimizer.state[parameter] = {
                    key.removeprefix(begin): tensor.to(self._device, copy=True)
                    for key, tensor in tensors.items()
                    if key.startswith(begin)
                }
        self._average = {
            name: tensors[f"average.{name}"].to(self._device, copy=True) for name in self._average
        }
        if self._scaler.is_enabled():
            held = self._scaler.state_dict()
            self._scaler.load_state_dict(held | {"scale": scale[0], "_growth_tracker": scale[1]})

    def loss(self, part: Part) -> Tensor:
        """Return the loss of windows that are computed together, summed over the members."""
        low = self._config.precision != "fp32"
        with torch.autocast(self._device.type, DTYPES[self._config.precision], enabled=low):
            heads: Heads = self._wrapped(graph_tensors(part.graph)).of_batch()
        heads = Heads(*(tensor.float() for tensor in heads)) if low else heads
        loss = training_loss(heads, part.targets, self._weights)
        if part.share == 1.0:
            return loss
        return part.share * loss + (1.0 - part.share) * training_loss(
            heads, part.partners, self._weights
        )

    def _silence(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Keep gradients from travelling until the last part of a step."""
        if is_last or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        silent: AbstractContextManager[None] = self._wrapped.no_sync()
        return silent
