"""How weights follow from gradients: what decays, the rate of each step, clipping by member, the moving average.

Invariant: all of it is a function of the weights, the gradients and the number of the step, so a fit goes on from a checkpoint as if
it had never stopped.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

DECAYED = ("weight_MLD", "recurrent_MDQ", "own_MQFD", "direction_MGD")
"""Matrices that multiply a state. Gains, biases, embeddings, attention vectors and thresholds have no reason to be small."""
FIRST_RATE = 0.04
"""Of the highest rate: where the rise begins."""


def make_optimizer(model: nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, 2019) which decays matrices alone; its order of weights is that of `model`'s names."""
    parted: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        parted[decays(name)].append(parameter)
    groups = [
        {"params": parted[True], "weight_decay": weight_decay},
        {"params": parted[False], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def decays(name: str) -> bool:
    """Return whether a weight, told by its name in the network, decays."""
    return name.rpartition(".")[2] in DECAYED


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


def clip_members(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale each member's gradient down to a norm, as if it were alone, and return the norms before, [M].

    Args:
        parameters: with gradients; the first axis of each is the members'.
        most: largest norm.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    rows = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
    norm_M: Tensor = torch.linalg.vector_norm(rows, dim=1)
    scale_M = (most / (norm_M + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale_M.view(-1, *[1] * (gradient.dim() - 1)))
    return norm_M


def follow(average: dict[str, Tensor], model: nn.Module, keep: float, step: int) -> None:
    """Move an average of the weights towards those of a step; a young average follows faster (as in Tensorflow's moving averages)."""
    share = 1.0 - min(keep, (1.0 + step) / (10.0 + step))
    names, now = zip(*((name, tensor) for name, tensor in model.named_parameters()), strict=True)
    torch._foreach_lerp_(
        [average[name] for name in names], [tensor.detach() for tensor in now], share
    )
