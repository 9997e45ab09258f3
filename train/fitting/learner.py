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

from app.model.network import Heads
from train.config import TrainConfig
from train.fitting.dataset import graph_tensors
from train.fitting.loss import LossWeights, Targets, branches_loss
from train.fitting.optimize import clip_parts, make_optimizer, rate_at, update_average
from train.fitting.wide_and_deep import Branches, WideAndDeep, WideInput

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class MicroBatch(NamedTuple):
    """Windows of one design in a forward pass.

    Of their loss, `partners` have the weight 1 - `share` (mixup). The weights of the micro-batches
    of a step sum to 1, so the loss of a step is the mean of the losses that the designs have alone,
    by their shares of the batch.
    """

    graph: Batch
    wide: WideInput
    targets: Targets
    partners: Targets
    share: float
    weight: float = 1.0


class Learner:
    """A network in training.

    Args:
        model: network and skip, on their device.
        wrap: wraps them to average gradients over workers.
        config: of the training.
        steps: optimizer steps of the whole fit.
    """

    def __init__(
        self,
        model: WideAndDeep,
        wrap: Callable[[nn.Module], nn.Module],
        config: TrainConfig,
        steps: int,
    ) -> None:
        self.model = model
        self.steps_done = 0
        self._wrapped = wrap(model)
        self._config = config
        self._steps = steps
        # without a skip both branches together are the network
        alone = config.alone_weight if len(model.skips) else 0.0
        self._weights = LossWeights.of(config)._replace(alone=alone)
        self._device = model.ensemble.temperature_G.device
        self._optimizer = make_optimizer(model, config)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.precision == "fp16")
        self._average = (
            {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
            if config.ema
            else {}
        )

    @property
    def rate(self) -> float:
        """Return the network's learning rate in the next step."""
        return self._rate(self._config.learning_rate)

    def _rate(self, highest: float) -> float:
        return rate_at(self.steps_done, self._steps, highest, self._config.rise_share)

    def step(self, passes: Sequence[Sequence[MicroBatch]]) -> Tensor:
        """Take one optimizer step and return the mean loss of a member over the windows.

        Args:
            passes: micro-batches of each forward pass, with equally many steps.
        """
        self._wrapped.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(group["highest"])
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._device)
        for number, micro_batches in enumerate(passes, 1):
            with self._synced(is_last=number == len(passes)):
                loss = self.loss(micro_batches)
                torch.autograd.backward(self._scaler.scale(loss))
            total += loss.detach()
        self._scaler.unscale_(self._optimizer)
        clip_parts(self.model, self._config.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.steps_done += 1
        if self._average:
            update_average(self._average, self.model, self._config.ema, self.steps_done)
        return total / self._config.members

    def predict(self, graph: Batch, wide: WideInput) -> Heads:
        """Predict with the weights that would be saved, without gradients."""
        self.model.eval()
        with torch.inference_mode():
            branches: Branches = torch.func.functional_call(
                self.model, self.weights(), (graph_tensors(graph), (wide,))
            )
        return branches.deep.heads(branches.latent_MVC)

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

    def loss(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Return the loss of micro-batches in one forward pass, summed over the members.

        One pass over the disjoint union of two designs takes .79 of the time of two passes at 32
        windows, and .92 at 128 (CPU time, the rig and a press of 8 sensors).
        """
        low = self._config.precision != "fp32"
        graph = graph_tensors(*(each.graph for each in micro_batches))
        with torch.autocast(self._device.type, DTYPES[self._config.precision], enabled=low):
            found: Branches = self._wrapped(graph, [each.wide for each in micro_batches])
        branches = found.float() if low else found
        if len(micro_batches) == 1:
            return self._loss(branches, micro_batches[0]) * micro_batches[0].weight
        sizes = [each.graph.num_nodes for each in micro_batches]
        losses = [
            self._loss(own, each) * each.weight
            for own, each in zip(branches.split(sizes), micro_batches, strict=True)
        ]
        return torch.stack(losses).sum()

    def _loss(self, branches: Branches, micro_batch: MicroBatch) -> Tensor:
        loss = branches_loss(branches, micro_batch.targets, self._weights)
        share = micro_batch.share
        if share == 1.0:
            return loss
        mixed = branches_loss(branches, micro_batch.partners, self._weights)
        return share * loss + (1.0 - share) * mixed

    def _synced(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Return a context in which only the last micro-batch of a step exchanges gradients."""
        if is_last or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        unsynced: AbstractContextManager[None] = self._wrapped.no_sync()
        return unsynced
