"""Optimizer, learning rate schedule, gradient clipping by part, moving average of the weights.

Invariant: all depend only on weights, gradients and the number of the step, so a resumed fit takes
the same steps.
"""

import math

import torch
from torch import Tensor, nn

from train.config import TrainConfig
from train.fitting.wide_and_deep import WideAndDeep

SKIP = "skips."
"""How the names of the skip's parameters begin."""
DECAYED = ("own_QFD", "direction_GD", "weight_LN")
"""Matrices with weight decay, beside those of `nn.Linear` and `nn.LSTM`."""
FIRST_RATE = 0.04
"""First learning rate, as a share of the highest."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, 2019) with decay of matrices only.

    Gains, biases, embeddings, attention vectors and thresholds need not be small. The linear skip
    has a rate and a decay of its own. Each group states its highest rate as `highest`.
    """
    decayed, groups = decayed_names(model), []
    of_branch = (
        (False, config.learning_rate, config.weight_decay),
        (True, config.skip_learning_rate, config.skip_weight_decay),
    )
    for is_skip, rate, decay in of_branch:
        for is_decayed in (True, False):
            chosen = [
                each
                for name, each in model.named_parameters()
                if name.startswith(SKIP) is is_skip and (name in decayed) is is_decayed
            ]
            if chosen:
                group = {"params": chosen, "weight_decay": decay if is_decayed else 0.0}
                groups.append({**group, "lr": rate, "highest": rate})
    return torch.optim.AdamW(groups, fused=True)


def decayed_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters with weight decay."""
    found = set()
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            is_matrix = isinstance(module, nn.Linear | nn.LSTM) and name.startswith("weight")
            if is_matrix or name in DECAYED:
                found.add(f"{prefix}.{name}" if prefix else name)
    return found


def rate_at(step: int, steps: int, highest: float, rise_share: float) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to 0.

    Args:
        step: from 0; beyond the last the rate is 0.
        steps: of the whole fit.
        highest: rate.
        rise_share: share of the steps in the warm-up.
    """
    rise = rise_share * steps
    if step < rise:
        return highest * (FIRST_RATE + (1.0 - FIRST_RATE) * step / rise)
    fallen = min((step - rise) / max(steps - rise, 1.0), 1.0)
    return highest * 0.5 * (1.0 + math.cos(math.pi * fallen))


def clip_parts(model: WideAndDeep, most: float) -> Tensor:
    """Clip the norm of the gradient of each member, and of each circuit's skip, separately.

    Args:
        model: with gradients.
        most: largest norm.

    Returns:
        The norms before, members first.
    """
    parts = (*model.ensemble.members, *model.skips)
    return torch.stack([nn.utils.clip_grad_norm_(part.parameters(), most) for part in parts])


def update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Update an exponential moving average of the weights.

    The decay is smaller in the first steps, as in TensorFlow's `ExponentialMovingAverage`.
    """
    share = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    now = {name: tensor.detach() for name, tensor in model.named_parameters()}
    torch._foreach_lerp_([average[name] for name in now], list(now.values()), share)
