"""How weights follow from gradients: what decays, the rate of each step, clipping by member, the moving average.

Invariant: all of it is a function of the weights, the gradients and the number of the step, so a
fit goes on from a checkpoint as if
it had never stopped.
"""

import math

import torch
from torch import Tensor, nn

from app.model.network import Ensemble

DECAYED = ("own_QFD", "direction_GD")
"""Own matrices that multiply a state, beside those of `nn.Linear` and `nn.LSTM`."""
FIRST_RATE = 0.04
"""Of the highest rate: where the rise begins."""


def make_optimizer(model: nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, 2019) that decays matrices only.

    Gains, biases, embeddings, attention vectors and thresholds have no reason to be small.
    """
    decayed = decayed_names(model)
    parameters = list(model.named_parameters())
    groups = [
        {
            "params": [parameter for name, parameter in parameters if name in decayed],
            "weight_decay": weight_decay,
        },
        {
            "params": [parameter for name, parameter in parameters if name not in decayed],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def decayed_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters that decay."""
    found = set()
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            is_matrix = isinstance(module, nn.Linear | nn.LSTM) and name.startswith("weight")
            if is_matrix or name in DECAYED:
                found.add(f"{prefix}.{name}" if prefix else name)
    return found


def rate_at(step: int, steps: int, highest: float, rise_share: float) -> float:
    """Return the learning rate of a step: a straight rise to the highest, then half a cosine down to nothing.

    Args:
        step: from 0; beyond the last the rate stays at nothing.
        steps: of the whole fit.
        highest: rate.
        rise_share: share of the steps that rise.
    """
    rise = rise_share * steps
    if step < rise:
        return highest * (FIRST_RATE + (1.0 - FIRST_RATE) * step / rise)
    return (
        highest * 0.5 * (1.0 + math.cos(math.pi * min((step - rise) / max(steps - rise, 1.0), 1.0)))
    )


def clip_members(ensemble: Ensemble, most: float) -> Tensor:
    """Scale each member's gradient down to a norm, as if it were alone.

    Args:
        ensemble: with gradients.
        most: largest norm.

    Returns:
        The norms before, [M].
    """
    return torch.stack(
        [nn.utils.clip_grad_norm_(member.parameters(), most) for member in ensemble.members]
    )


def follow(average: dict[str, Tensor], model: nn.Module, keep: float, step: int) -> None:
    """Move an average of the weights towards those of a step; a young average follows faster (as in Tensorflow's moving averages)."""
    share = 1.0 - min(keep, (1.0 + step) / (10.0 + step))
    names, now = zip(*((name, tensor) for name, tensor in model.named_parameters()), strict=True)
    torch._foreach_lerp_(
        [average[name] for name in names], [tensor.detach() for tensor in now], share
    )
