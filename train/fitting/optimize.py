"""Optimizer, learning rate schedule, gradient clipping by member, moving average of the weights.

Invariant: all depend only on weights, gradients and the number of the step, so a resumed fit takes
the same steps.
"""

import math

import torch
from torch import Tensor, nn

from app.model.network import Ensemble

DECAYED = ("own_QFD", "direction_GD")
"""Matrices with weight decay, beside those of `nn.Linear` and `nn.LSTM`."""
FIRST_RATE = 0.04
"""First learning rate, as a share of the highest."""


def make_optimizer(model: nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, 2019) with decay of matrices only.

    Gains, biases, embeddings, attention vectors and thresholds need not be small.
    """
    decayed, groups = decayed_names(model), []
    for is_decayed in (True, False):
        chosen = [
            each for name, each in model.named_parameters() if (name in decayed) is is_decayed
        ]
        groups.append({"params": chosen, "weight_decay": weight_decay if is_decayed else 0.0})
    return torch.optim.AdamW(groups, lr=rate, fused=True)


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


def clip_members(ensemble: Ensemble, most: float) -> Tensor:
    """Clip the norm of each member's gradient separately.

    Args:
        ensemble: with gradients.
        most: largest norm.

    Returns:
        The norms before, [M].
    """
    return torch.stack(
        [nn.utils.clip_grad_norm_(member.parameters(), most) for member in ensemble.members]
    )


def update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Update an exponential moving average of the weights.

    The decay is smaller in the first steps, as in TensorFlow's `ExponentialMovingAverage`.
    """
    share = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    now = {name: tensor.detach() for name, tensor in model.named_parameters()}
    torch._foreach_lerp_([average[name] for name in now], list(now.values()), share)
